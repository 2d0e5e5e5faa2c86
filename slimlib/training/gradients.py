"""Gradients of a narrow width, added in place to the slices of the parameters' `.grad` that they belong to.

Autograd writes the gradient of a view into zeros of the parameter's full size and adds those, so that the
narrowest width moves as much memory as the full one. While a training rule runs a narrow width, large
parameters are therefore seen through views whose backward pass adds to `.grad` itself. The sums are the
same, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.core.slimming import Slimming
from slimlib.core.swapping import leading

SMALL = 4096  # elements up to which autograd's own way costs less than a call from its engine into Python


@contextmanager
def adding_in_place(net: nn.Module, *, casts: bool = False) -> Iterator[Callable[[Tensor], None]]:
    """For one forward pass at the width that is set; yields what then runs the loss backward.

    `casts`: the forward casts what it sees of the kernels, which copies them once already.

    Only the slimmable network itself is treated so, not what wraps it: DistributedDataParallel and
    torch.compile see ordinary views.
    """
    slimming = net.__dict__.get("slim")
    if not isinstance(slimming, Slimming) or net._compiled_call_impl is not None:
        yield Tensor.backward
        return
    running = _Running()
    for module, name, parameter, shape in _sliced(slimming):
        module.__dict__[name] = _Slice.apply(parameter, shape, running, not casts)  # type: ignore[no-untyped-call]
    try:
        yield running.backward
    finally:
        slimming.set(slimming.width)


class _Running:
    """Whether the backward pass of the rule runs, and not one that the loss asks for."""

    now = False

    def backward(self, value: Tensor) -> None:
        self.now = True
        try:
            value.backward()
        finally:
            self.now = False


class _Slice(torch.autograd.Function):
    """The leading part of a parameter, of a given shape.

    A kernel with a part of its input channels is copied: convolution would copy it in its forward and again in its
    backward pass.
    """

    @staticmethod
    def forward(ctx: Any, parameter: nn.Parameter, shape: torch.Size, running: _Running, copied: bool) -> Tensor:
        ctx.parameter, ctx.shape, ctx.running = parameter, shape, running
        part = leading(parameter, shape)
        return part.clone() if copied and part.ndim > 2 and not _is_dense(part) else part

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        parameter = ctx.parameter
        if ctx.running.now and _takes(parameter):
            leading(parameter.grad, ctx.shape).add_(gradient)
            return None, None, None, None
        whole = torch.zeros_like(parameter)
        return torch.as_strided_scatter(whole, gradient, ctx.shape, whole.stride(), 0), None, None, None


def _is_dense(part: Tensor) -> bool:
    return part.is_contiguous() or part.is_contiguous(memory_format=torch.channels_last)


def _takes(parameter: nn.Parameter) -> bool:
    """Whether there is a gradient to add to, and no hook wants to see what is added."""
    grad = parameter.grad
    hooks = parameter._backward_hooks or parameter._post_accumulate_grad_hooks
    return grad is not None and grad.layout == torch.strided and not hooks


def _sliced(slimming: Slimming) -> list[tuple[nn.Module, str, nn.Parameter, torch.Size]]:
    """The large parameters of which modules see a plain leading part now, and its shape."""
    found = []
    for part in slimming.parts:
        seen = part.module.__dict__
        for slot in part.slots:
            parameter, view = slot.tensor(slimming.channels), seen.get(slot.name)
            if not (isinstance(parameter, nn.Parameter) and isinstance(view, Tensor) and view._base is parameter):
                continue
            if parameter.numel() > SMALL and view.requires_grad and _takes(parameter):
                found.append((part.module, slot.name, parameter, view.shape))
    # Of a parameter that is seen twice, autograd adds up the two gradients first.
    times = Counter(id(parameter) for _, _, parameter, _ in found)
    return [entry for entry in found if times[id(entry[2])] == 1]
