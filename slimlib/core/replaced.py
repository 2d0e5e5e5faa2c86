"""Layers that stand, since `convert`, in the place of others: they slim as those did, or are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn
from torch.nn.utils import parametrize

from slimlib.core.layers import SLIM_LAYERS
from slimlib.core.layout import Layout
from slimlib.core.swapping import dense_class


def fitting(layout: Layout, net: nn.Module, replaced: Mapping[str, nn.Module]) -> tuple[Layout, list[nn.Module]]:
    """The layout of `net` as it is now, and the modules that came into it.

    Args:
        layout: that of the network before.
        net: the network.
        replaced: path -> the module that was there before.

    Raises:
        ValueError: what came cannot slim as what it replaces.
    """
    now = dict(net.named_modules())
    came, gone = [], []
    for path, before in replaced.items():
        after = now.get(path)
        if after is not None and _kind(after) is _kind(before):
            _check_numbers(path, before, after)
            came.append(after)
        else:
            _check_gone(layout, path, before, now)
            gone.append(path)
    return _without(layout, gone) if gone else layout, came


def _kind(module: nn.Module) -> type:
    made = type(module)
    kind = made.__mro__[1] if parametrize.is_parametrized(module) and dense_class(made) is made else dense_class(made)
    return SLIM_LAYERS.get(kind, kind)


def _check_numbers(path: str, before: nn.Module, after: nn.Module) -> None:
    kind = _kind(before).__name__.removeprefix("Slim")
    for attribute, value in before.__dict__["full_numbers"].items():
        if getattr(after, attribute, value) != value:
            found = f"{attribute} is {getattr(after, attribute)} and must be {value}"
            raise ValueError(refusal(f"'{path}' was replaced by another {kind}, of which {found}"))


def _check_gone(layout: Layout, path: str, before: nn.Module, now: Mapping[str, nn.Module]) -> None:
    """Raise ValueError unless nothing computes there any more, and nothing depends on its channels."""
    holder = path
    while holder not in now:
        holder = holder.rpartition(".")[0]
    was = f"'{path}', a {_kind(before).__name__.removeprefix('Slim')},"
    if any(path in group.layers for group in layout.groups):
        raise ValueError(refusal(f"{was} made channels that other layers read, and is gone"))
    if next(now[holder].parameters(), None) is not None:
        raise ValueError(refusal(f"{was} was replaced by a {type(now[holder]).__name__}"))


def refusal(what: str) -> str:
    return f"{what}; put it into the network before slimlib.convert, or give a layer of the same class and sizes"


def _without(layout: Layout, gone: list[str]) -> Layout:
    def stays(path: str) -> bool:
        return path not in gone

    return replace(
        layout,
        axes={name: dims for name, dims in layout.axes.items() if stays(name.rpartition(".")[0])},
        norm_inputs={path: axis for path, axis in layout.norm_inputs.items() if stays(path)},
        numbers={path: found for path, found in layout.numbers.items() if stays(path)},
        contiguous=tuple(name for name in layout.contiguous if stays(name.rpartition(".")[0])),
    )
