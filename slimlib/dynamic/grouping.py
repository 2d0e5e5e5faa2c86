"""Which samples of a batch run together: those of equal channel numbers, or of nearly equal ones, if that is faster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.core.setting import slimmable_parts
from slimlib.core.width import Width, WidthPlan, is_whole
from slimlib.serving.freezing import Frozen

Channels = tuple[tuple[int, ...], ...]  # of each slimmable part of a network
Seconds = Callable[[Width, int], float]
GAIN = 0.1  # that several groups must promise, as sorting samples takes time, and measured times are not exact


@dataclass(frozen=True)
class Group:
    """Samples, by their place in the batch, that run together at one width."""

    width: Width
    samples: tuple[int, ...]


def widths_of_samples(net: nn.Module, widths: Sequence[Width] | Tensor, samples: int) -> list[Width]:
    """One width for each sample, checked; the numbers of a tensor become the widths that they are of its precision.

    Raises:
        ValueError: another number of widths than samples, or one that is not allowed here.
    """
    if not isinstance(widths, Iterable):
        raise ValueError(
            f"route needs a list of widths, one for each of {samples} samples, not {widths!r}; for one width of all, "
            "call slimlib.set_width(net, width) and then the network"
        )
    if hasattr(widths, "__array__"):
        widths = torch.as_tensor(widths)
    if isinstance(widths, Tensor) and widths.dim() != 1:
        raise ValueError(f"widths has the shape {list(widths.shape)}; route needs one width for each sample, [N]")
    given = _numbers(net, widths) if isinstance(widths, Tensor) else list(widths)
    if len(given) != samples:
        raise ValueError(f"route got {len(given)} widths for {samples} samples; it needs one for each")
    for width in dict.fromkeys(given):
        for part in slimmable_parts(net):
            part.check(width)
    return given


def _numbers(net: nn.Module, widths: Tensor) -> list[Width]:
    """A float32 of 0.1 is 0.10000000149 as a Python number, which no network was converted for."""
    named: list[Width] = []
    for part in slimmable_parts(net):
        named += part.nets if isinstance(part, Frozen) else getattr(part.widths, "widths", ())
    known = [float(width) for width in named if not isinstance(width, WidthPlan)]
    exact = dict(zip(torch.tensor(known, dtype=widths.dtype).tolist(), known, strict=True))
    digits = 15 if widths.dtype == torch.float64 else 7 if widths.dtype == torch.float32 else 3
    return [exact.get(number, float(f"{number:.{digits}g}")) for number in widths.tolist()]


def channels_of(net: nn.Module, width: Width) -> Channels:
    """The channel numbers of a width, which decide what is computed."""
    return tuple(part.channels_at(width) for part in slimmable_parts(net))


def groups_of(net: nn.Module, widths: Sequence[Width]) -> list[Group]:
    """The samples of equal channel numbers, from narrow to wide."""
    found: dict[Channels, tuple[Width, list[int]]] = {}
    channels = {width: channels_of(net, width) for width in dict.fromkeys(widths)}
    for sample, width in enumerate(widths):
        found.setdefault(channels[width], (width, []))[1].append(sample)
    ordered = sorted(found, key=lambda numbers: (sum(map(sum, numbers)), numbers))
    return [Group(found[numbers][0], tuple(found[numbers][1])) for numbers in ordered]


def without_small(groups: Sequence[Group], smallest: int) -> list[Group]:
    """Groups of fewer samples than `smallest` join the next wider; the widest has none to join."""
    made: list[Group] = []
    waiting: tuple[int, ...] = ()
    for place, group in enumerate(groups):
        group = Group(group.width, tuple(sorted(waiting + group.samples)))
        if len(group.samples) < smallest and place < len(groups) - 1:
            waiting = group.samples
        else:
            made.append(group)
            waiting = ()
    return made


def fastest(groups: Sequence[Group], seconds: Seconds, alone: Seconds | None = None) -> list[Group]:
    """Join groups with wider ones so that all together take least, by what a group of a size takes at a width.

    `alone`: what the whole batch takes at one width; several groups must beat that by `GAIN`.
    """
    count = len(groups)
    least: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]  # of the groups before a place: seconds, where each ends
    for end in range(1, count + 1):
        options = []
        for begin in range(end):
            size = sum(len(group.samples) for group in groups[begin:end])
            before, ends = least[begin]
            options.append((before + seconds(groups[end - 1].width, size), (*ends, end)))
        least.append(min(options))
    ends = least[count][1]
    whole = sum(len(group.samples) for group in groups)
    if alone is not None and least[count][0] > (1 - GAIN) * alone(groups[-1].width, whole):
        ends = (count,)
    return [_one(groups[begin:end]) for begin, end in pairwise((0, *ends))]


def _one(groups: Sequence[Group]) -> Group:
    samples: tuple[int, ...] = sum((group.samples for group in groups), ())
    return Group(groups[-1].width, tuple(sorted(samples)))


def check_smallest(smallest: Any) -> None:
    """Raise ValueError unless it is a number of samples, or "measured"."""
    if not is_whole(smallest, 1) and smallest != "measured":
        raise ValueError(f"smallest_group={smallest!r} must be a number of samples, at least 1, or 'measured'")
