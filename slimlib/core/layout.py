"""The channel layout of a network: which channels belong together, and where each of them passes.

A *unit* is what lives or dies together (one channel, nearly always); a *group* is the ordered
units of layers that must agree. Every axis of every parameter that slims is a sequence of
segments: so many units of that group, or so many channels that always stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from slimlib.core.width import round_channels

FORMAT = 2  # of the JSON form that `save` writes


@dataclass(frozen=True)
class Segment:
    """Consecutive channels of an axis: `units` units of `group` from its unit `start` on, `channels` each.

    `group` None: the channels always stay (then `units` is their number and `channels` is 1).
    """

    group: int | None
    units: int
    channels: int = 1
    start: int = 0

    @property
    def size(self) -> int:
        return self.units * self.channels

    def active(self, channels: Sequence[int]) -> int:
        """Leading channels of this segment that are active when group g has channels[g] units."""
        if self.group is None:
            return self.size
        return min(max(channels[self.group] - self.start, 0), self.units) * self.channels


Axis = tuple[Segment, ...]


@dataclass(frozen=True)
class Group:
    """Layers that must have the same active channels; `name` is the first layer that makes them."""

    name: str
    units: int
    divisor: int
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What `flow.follow` finds and `convert` applies; plain data.

    axes: name of a parameter or buffer -> {dimension: axis}, only where something slims.
    norm_inputs: name of a norm module -> the axis of channels that enters it, only where it slims.
    numbers: name of a module -> {attribute: the axis whose active length it holds}, see `slimlib.core.numbers`.
    kept: name of a layer that stays full -> the reason (operation and module).
    idle: layers that never ran on the example (they stay full).
    like: name of a module that never ran -> the one beside it whose channels it follows.
    statistics: name of a module ("" for the whole) -> the operations in it that take statistics over channels, which
        are those of the active ones.
    contiguous: names of parameters whose active part must lie together in memory, since forward views it otherwise.
    caches: paths of attributes in which forward keeps what it made of its weights, of one width, for the next call.
    followed: its channels were followed, so that nothing but a unit's own channels depends on where the unit is.
    """

    groups: tuple[Group, ...]
    axes: Mapping[str, Mapping[int, Axis]]
    norm_inputs: Mapping[str, Axis] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    idle: tuple[str, ...] = ()
    like: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, Mapping[str, Axis]] = field(default_factory=dict)
    statistics: Mapping[str, str] = field(default_factory=dict)
    contiguous: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()
    followed: bool = field(default=False, compare=False)

    @property
    def full(self) -> tuple[int, ...]:
        """The channel numbers of the whole network."""
        return tuple(group.units for group in self.groups)

    def channels_at(self, width: float) -> tuple[int, ...]:
        """Units of each group at a uniform width, rounded."""
        return tuple(round_channels(group.units, width, group.divisor) for group in self.groups)

    def to_json(self) -> dict[str, Any]:
        """A form that the json module writes; `from_json` reads it."""
        return {
            "format": FORMAT,
            "groups": [[g.name, g.units, g.divisor, list(g.layers)] for g in self.groups],
            "axes": {name: {str(dim): _plain(axis) for dim, axis in dims.items()} for name, dims in self.axes.items()},
            "norm_inputs": {name: _plain(axis) for name, axis in self.norm_inputs.items()},
            "kept": dict(self.kept),
            "idle": list(self.idle),
            "like": dict(self.like),
            "numbers": {
                name: {attribute: _plain(axis) for attribute, axis in found.items()}
                for name, found in self.numbers.items()
            },
            "statistics": dict(self.statistics),
            "contiguous": list(self.contiguous),
            "caches": list(self.caches),
            "followed": self.followed,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Layout:
        """The layout that `to_json` wrote.

        Raises:
            ValueError: the data is of another format, or no layout.
        """
        if data.get("format") not in (1, FORMAT):  # 1 had no numbers
            raise ValueError(f"channel layout of format {data.get('format')!r}; this slimlib reads format {FORMAT}")
        return Layout(
            groups=tuple(Group(name, units, divisor, tuple(layers)) for name, units, divisor, layers in data["groups"]),
            axes={name: {int(d): _axis(axis) for d, axis in dims.items()} for name, dims in data["axes"].items()},
            norm_inputs={name: _axis(axis) for name, axis in data["norm_inputs"].items()},
            kept=dict(data["kept"]),
            idle=tuple(data["idle"]),
            like=dict(data.get("like", {})),
            statistics=dict(data.get("statistics", {})),
            contiguous=tuple(data.get("contiguous", ())),
            caches=tuple(data.get("caches", ())),
            numbers={
                name: {attribute: _axis(axis) for attribute, axis in found.items()}
                for name, found in data.get("numbers", {}).items()
            },
            followed=data.get("followed", False),
        )


def _plain(axis: Axis) -> list[list[int | None]]:
    return [[s.group, s.units, s.channels, s.start] for s in axis]


def _axis(rows: Sequence[Sequence[Any]]) -> Axis:
    return tuple(Segment(*row) for row in rows)


def axis_size(axis: Axis, channels: Sequence[int]) -> int:
    """Number of active channels of an axis."""
    return sum(segment.active(channels) for segment in axis)


def axis_index(axis: Axis, channels: Sequence[int]) -> int | Tensor:
    """The active positions of an axis: a number n for the plain prefix 0..n-1, else a long tensor of positions."""
    return _index(axis, tuple(segment.active(channels) for segment in axis))


@lru_cache(maxsize=16384)
def _index(axis: Axis, active: tuple[int, ...]) -> int | Tensor:
    positions: list[int] = []
    begin = 0
    for segment, count in zip(axis, active, strict=True):
        positions.extend(range(begin, begin + count))
        begin += segment.size
    if positions == list(range(len(positions))):
        return len(positions)
    return torch.tensor(positions, dtype=torch.long)
