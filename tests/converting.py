"""Networks of `tests.networks` made slimmable; their channels are followed once in a process, which takes longest.

Tests of what `convert` finds, and of what it leaves alone, call `slimlib.convert` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

import slimlib as slim
from slimlib.core.layout import Layout

_LAYOUTS: dict[tuple[str, int], Layout] = {}


def made_slimmable(name: str, net: nn.Module, args: Any, *, divisor: int = 8, **more: Any) -> nn.Module:
    """What `slim.convert` makes of a network of this name."""
    slim.convert(net, args, divisor=divisor, layout=_LAYOUTS.get((name, divisor)), **more)
    _LAYOUTS.setdefault((name, divisor), net.slim.layout)  # type: ignore[union-attr, arg-type]
    return net


def following_once(follow: Callable[..., Layout]) -> Callable[..., Layout]:
    """Like `follow`, for networks that are made again and again: equal ones are followed once in a process.

    Networks are equal in the classes and plain attributes of all modules, and in the shapes of all that they hold.
    """
    known: dict[tuple[Any, ...], Layout] = {}

    def found(net: nn.Module, example: Any, *, keep: Sequence[str] = (), **given: Any) -> Layout:
        kinds = tuple(type(m) for m in net.modules())
        modules = [(name, _plain(vars(m))) for name, m in net.named_modules()]
        shapes = [(name, x.shape, x.dtype) for name, x in net.state_dict(keep_vars=True).items()]
        inputs = tree_map_only(torch.Tensor, lambda x: (x.shape, x.dtype), example)
        key = kinds, repr((modules, shapes, inputs, list(keep), sorted(given.items())))
        if key not in known:
            known[key] = follow(net, example, keep=keep, **given)
        return known[key]

    return found


def _plain(attributes: dict[str, Any]) -> list[tuple[str, Any]]:
    """The attributes, those that are not plain by their class alone."""
    plain = (bool, int, float, str, type, tuple, type(None))
    return [(name, x if isinstance(x, plain) else type(x)) for name, x in sorted(attributes.items())]
