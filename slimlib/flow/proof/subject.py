"""What a proof works on: copies of the network that it may change, and arguments for them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimlib.core.apply import apply_layout
from slimlib.core.layout import Layout
from slimlib.core.parts import as_buffers
from slimlib.core.structures import map_tensors

NOISE = 10007  # numbers that are repeated: a prime, so that no two rows get the same


@dataclass
class Copy:
    """A copy of the network with its arguments; `tolerance` of results, in parts of the largest number."""

    net: nn.Module
    args: tuple[Any, ...]
    tolerance: float

    def slimmed(self, layout: Layout) -> Any:
        """The same network made slimmable, in the same memory: proofs do not change parameters."""
        tensors = [*self.net.parameters(), *self.net.buffers()]
        return apply_layout(copy.deepcopy(self.net, {id(t): t for t in tensors}), layout, norm="shared")


class Subject:
    """The user's network, `origin`; a copy for quick runs, and one whose numbers are compared.

    The latter is in double precision, and has no zeros and ones of a fresh network, which would hide a fault.
    """

    def __init__(self, origin: nn.Module, tables: Sequence[str], copied: nn.Module, args: tuple[Any, ...]) -> None:
        self.origin, self.tables, self.quick = origin, tables, Copy(copied, args, tolerance=1e-3)
        self.casts = False  # the network computes in float32 by itself
        self._exact: Copy | None = None

    @property
    def exact(self) -> Copy:
        """The copy whose numbers are compared; made when it is first needed."""
        if self._exact is None:
            noise = torch.rand(NOISE, generator=torch.Generator().manual_seed(1)) * 0.02
            own = {id(p): type(p)(self._perturbed(p, noise), p.requires_grad) for p in self.origin.parameters()}
            net, args = duplicate(self.origin, self.tables, own), self.quick.args
            if not self.casts:
                net, args = net._apply(_double), map_tensors(_double, args)
            for buffer in net.buffers():
                buffer.data.copy_(self._perturbed(buffer, noise))
            self._exact = Copy(net, args, 1e-3 if self.casts else 1e-7)
        return self._exact

    def compare_in_float32(self) -> None:
        self.casts, self._exact = True, None

    def _perturbed(self, x: Tensor, noise: Tensor) -> Tensor:
        """A copy with the noise added again and again, where it has numbers that can be changed."""
        if not (x.is_floating_point() or x.is_complex()) or x.layout is not torch.strided:
            return x.detach().clone()
        kind = x.dtype if self.casts else torch.complex128 if x.is_complex() else torch.float64
        made = x.detach().to(kind, copy=True, memory_format=torch.contiguous_format)
        noise = noise.to(made)
        flat, whole = made.view(-1), made.numel() // NOISE * NOISE
        flat[:whole].view(-1, NOISE).add_(noise)
        flat[whole:].add_(noise[: len(flat) - whole])
        return made


def duplicate(
    net: nn.Module, tables: Sequence[str] = (), parameters: Mapping[int, nn.Parameter] | None = None
) -> nn.Module:
    """A deep copy, also where a module holds a tensor that was computed (as the older weight_norm leaves it).

    Args:
        net: any module.
        tables: paths of plain attributes that are buffers in the copy.
        parameters: id of a parameter of `net` -> that of the copy; others are copied.
    """
    memo: dict[int, Any] = dict(parameters or {})
    for module in net.modules():
        for x in tree_leaves(list(module.__dict__.values())):
            if isinstance(x, Tensor) and not x.is_leaf:
                memo[id(x)] = x.detach().clone()
    copied = copy.deepcopy(net, memo)
    as_buffers(copied, tables)
    return copied


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x.to(torch.complex128) if x.is_complex() else x
