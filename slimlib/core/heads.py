"""Heads of bands: a last layer of which each band of widths has one of its own, while all share what is before it.

A band's parameters are named after its widest channel numbers, as those of switchable BatchNorm are after a switch's;
the widest band, which has the full width, keeps the plain names.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from slimlib.core.layout import Layout
from slimlib.core.statistics import AFFINE, OfWidth, tracks
from slimlib.core.width import Switches, Width, WidthPlan, WidthRange, Widths, is_whole

Bounds = tuple[tuple[int, ...], ...]
"""The channel numbers at which bands end, from narrow to wide, without the last band. Others are by their sum."""


def check_heads(net: nn.Module, heads: Mapping[str, int], widths: Widths) -> None:
    """Raise ValueError for layers or numbers of bands that cannot be."""
    modules = dict(net.named_modules())
    for name, count in heads.items():
        if name not in modules:
            raise ValueError(
                f"heads: this {type(net).__name__} has no layer '{name}'; net.named_modules() has its names"
            )
        layer = modules[name]
        own = {key for key, parameter in layer._parameters.items() if parameter is not None}
        if not own or not own <= set(AFFINE) or tracks(layer) or any(layer.children()):
            raise ValueError(f"heads: '{name}' ({type(layer).__name__}) is not a layer with its own weight and bias")
        most = len(widths.widths) if isinstance(widths, Switches) else float("inf")
        if not is_whole(count, 1) or count > most:
            possible = f"from 1 to {most}" if isinstance(widths, Switches) else "of at least 1"
            raise ValueError(f"heads: {count!r} bands of the widths {widths}; give a whole number {possible}")


def bounds_of(layout: Layout, widths: Widths, count: int) -> Bounds:
    """Where `count` equal bands end; those that the same channel numbers end are one."""
    tops: list[Width]
    if isinstance(widths, WidthRange):
        span = widths.largest - widths.smallest
        tops = [widths.smallest + span * number / count for number in range(1, count)]
    else:
        tops = [widths.widths[len(widths.widths) * number // count - 1] for number in range(1, count)]
    channels = [top.channels if isinstance(top, WidthPlan) else layout.channels_at(top) for top in tops]
    return tuple(dict.fromkeys(each for each in channels if each != layout.full))


def prepare_heads(layers: Mapping[str, nn.Module], heads: Mapping[str, Bounds]) -> None:
    """Add to the layers, by name, what each band has of its own: copies."""
    for name, layer in layers.items():
        bounds = heads.get(name, ())
        plain = [(key, parameter) for key, parameter in layer._parameters.items() if parameter is not None]
        for key, shared in plain:
            for bound in bounds:
                own = nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
                layer.register_parameter(str(OfWidth(key, bound)), own)
