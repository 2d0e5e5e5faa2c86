"""Steps of a training rule, and the same by nothing but autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import slimlib as slim
from slimlib.training.sandwich import Rule
from tests.converting import made_slimmable
from tests.networks import NETWORKS

RANGE = slim.WidthRange(0.25, 1.0)
RULES: dict[str, Callable[[], Rule]] = {
    "sandwich": lambda: slim.Sandwich(RANGE, 4),
    "narrow widths only": lambda: slim.RandomWidths(slim.WidthRange(0.25, 0.8), 3),
    "smallest and random": lambda: slim.SmallestAndRandom(RANGE, 2),
    "one narrow width": lambda: slim.SingleWidth(0.5),
}
Loss = Callable[[Any], Tensor]
Case = tuple[nn.Module, tuple[Any, ...]]  # a slimmable network and its arguments


def network(name: str = "residual", **options: Any) -> Case:
    torch.manual_seed(0)
    dense, args = NETWORKS[name]()
    return made_slimmable(name, dense, args, **options), args


def loss(output: Any) -> Tensor:
    return torch.stack([t.square().mean() for t in tree_leaves(output) if t.is_floating_point()]).sum()


def in_turns(
    net: nn.Module, args: tuple[Any, ...], rule: Rule, of: Loss = loss, scaler: Any = None, autocast: Any = None
) -> None:
    """What `rule.backward` stands for, by nothing but autograd."""
    for width in rule.draw():
        with slim.at_width(net, width):
            with nullcontext() if autocast is None else torch.autocast("cpu", autocast):
                output = net(*args)
            value = of(output if autocast is None else output.float())
            (value if scaler is None else scaler.scale(value)).backward()


def by_rule(net: nn.Module, args: tuple[Any, ...], rule: Rule, of: Loss = loss, **options: Any) -> None:
    rule.backward(net, args, of, **options)


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether gradients, parameters and buffers are equal, also in what is None and how it lies in memory."""
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        if (p.grad is None) != (q.grad is None):
            return False
        if p.grad is not None and not (torch.equal(p.grad, q.grad) and p.grad.stride() == q.grad.stride()):
            return False
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def trained_alike(
    net: nn.Module,
    args: tuple[Any, ...],
    rule: Callable[[], Rule] = RULES["sandwich"],
    *,
    prepare: Callable[[nn.Module], object] = lambda net: None,
    passes: int = 1,
    set_to_none: bool = True,
    **options: Any,
) -> bool:
    """Whether three steps of SGD are the same by `rule.backward` and by autograd alone."""
    nets = [net, copy.deepcopy(net)]
    for run, one in zip((by_rule, in_turns), nets, strict=True):
        prepare(one)
        torch.manual_seed(1)
        own = rule()
        optimizer = torch.optim.SGD((p for p in one.parameters() if p.requires_grad), lr=0.01, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad(set_to_none=set_to_none)
            for _ in range(passes):
                run(one, args, own, **options)
            optimizer.step()
    return same(*nets)


def sliced(net: nn.Module) -> list[str]:
    """The parameters that modules see through a view that adds in place."""
    seen = [(f"{name}.{key}", value) for name, m in net.named_modules() for key, value in m.__dict__.items()]
    return [name for name, value in seen if isinstance(value, Tensor) and "_Slice" in type(value.grad_fn).__name__]
