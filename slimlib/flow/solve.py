"""From ties to units, groups and the layout."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from slimlib.core.layout import Axis, Group, Layout, Segment
from slimlib.core.width import fitting_divisor
from slimlib.flow.ids import AtomKey, layer_of
from slimlib.flow.ties import Ties

Place = tuple[int, int]  # (group, unit)
Makers = tuple[tuple[AtomKey, ...], tuple[tuple[int, int], ...]]  # producers of units, and the parts that these are in


@dataclass(frozen=True)
class Rounding:
    """The divisor of channel numbers, and those of the outputs of layers that round otherwise."""

    divisor: int
    divisors: Mapping[str, int]


class Conflict(Exception):
    """A parameter whose channels cannot be cut off: these ids must stay."""

    def __init__(self, name: str, ids: Tensor, why: str) -> None:
        super().__init__(name)
        self.ids, self.why = ids, why


class Solution:
    """The units that the ties leave, in groups with the same producers, and in the same parts of them, in order."""

    def __init__(self, ties: Ties) -> None:
        self.ties = ties
        self.labels = ties.labels()
        self.fixed = ties.fixed()
        makers: dict[int, list[AtomKey]] = defaultdict(list)
        for key in ties.producers:
            for unit in torch.unique(self.labels[ties.atoms[key]]).tolist():
                makers[unit].append(key)
        found: dict[Makers, list[int]] = defaultdict(list)
        parts = self._parts()
        for unit in sorted(makers):
            if unit not in self.fixed:
                found[tuple(makers[unit]), tuple(parts.get(unit, ()))].append(unit)
        for (keys, _), units in found.items():
            if len(units) == 1:
                self.fixed[units[0]] = (
                    f"all its channels are tied into one unit, with those of '{layer_of(keys[0][0])}'"
                )
        self.groups = {made_by: units for made_by, units in found.items() if len(units) > 1}
        self.places: dict[int, Place] = {
            unit: (g, k) for g, units in enumerate(self.groups.values()) for k, unit in enumerate(units)
        }
        group, rank = torch.full((2, len(self.labels)), -1)
        for g, of_group in enumerate(self.groups.values()):
            group[of_group], rank[of_group] = g, torch.arange(len(of_group))
        self._group, self._rank = group[self.labels], rank[self.labels]  # of each id's unit, -1: it stays
        self.slims = self._group >= 0
        self.alone = torch.bincount(self.labels, minlength=len(self.labels))[self.labels] == 1  # ids that met nothing
        self._axes: dict[tuple[int, ...], Axis] = {}

    def active(self, channels: Sequence[int]) -> Tensor:
        """Whether each id is active when group g has channels[g] units; id 0 and what stays always are."""
        limit = torch.tensor([*channels, 0])[self._group]  # the last one, 0, for what stays
        return torch.lt(self._rank, limit)

    def _parts(self) -> dict[int, list[tuple[int, int]]]:
        """Unit -> which part of which divided axis it is in."""
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for division, parts in enumerate(self.ties.divided):
            for part, ids in enumerate(parts):
                for unit in torch.unique(self.labels[ids]).tolist():
                    found[unit].append((division, part))
        return found

    def axis(self, ids: Tensor) -> Axis:
        """The segments of an axis whose channels have these ids."""
        units = tuple(self.labels[ids].tolist())
        if units not in self._axes:
            self._axes[units] = segments([self.places.get(unit) for unit in units])
        return self._axes[units]

    def group(self, made_by: Makers, rounding: Rounding) -> Group:
        keys, units = made_by[0], self.groups[made_by]
        layers = tuple(dict.fromkeys(layer_of(name) for name, _ in keys))
        divisor = fitting_divisor(len(units), self._units_of_divisor(keys, units[0], rounding))
        return Group(layers[0], len(units), divisor, layers)

    def _units_of_divisor(self, keys: tuple[AtomKey, ...], unit: int, rounding: Rounding) -> int:
        """The divisor in units: that of a layer counts its outputs, the common one the axis with fewest channels."""
        chosen: dict[str, int] = {}
        for key in keys:
            if (layer := layer_of(key[0])) in rounding.divisors:
                channels = int((self.labels[self.ties.atoms[key]] == unit).sum())
                chosen[layer] = max(1, rounding.divisors[layer] // channels)
        if len(set(chosen.values())) > 1:
            told = " and ".join(f"'{layer}' ({rounding.divisors[layer]})" for layer in chosen)
            raise ValueError(f"divisors of layers that must have the same channels differ: {told}; give them one")
        of_unit = (max if unit in self._heads else min)(self._channels[unit])
        return next(iter(chosen.values()), max(1, rounding.divisor // of_unit))

    @cached_property
    def _heads(self) -> set[int]:
        """The units that are heads of attention: whole, whatever else has one channel for each."""
        return {unit for ids in self.ties.heads for unit in self.labels[ids].tolist()}

    @cached_property
    def _channels(self) -> dict[int, list[int]]:
        """Unit -> its channels in each axis where it has any."""
        found: dict[int, list[int]] = defaultdict(list)
        for ids in self.ties.atoms.values():
            units, counts = torch.unique(self.labels[ids], return_counts=True)
            for unit, count in zip(units.tolist(), counts.tolist(), strict=True):
                found[unit].append(count)
        return found

    def kept(self) -> dict[str, str]:
        """Layers whose outputs all stay full, or all of which stays, -> why."""
        kept = dict(self.ties.blocked)
        slim = {layer_of(key[0]) for key, ids in self.ties.atoms.items() if bool(self.slims[ids].any())}
        made = [(layer_of(key[0]), self.ties.atoms[key]) for key in self.ties.producers]
        giving = {layer for layer, ids in made if bool(self.slims[ids].any())}  # an embedding may also give classes
        weights = [(layer_of(key[0]), ids) for key, ids in self.ties.atoms.items() if isinstance(key[1], int)]
        for layer, ids in made + [(layer, ids) for layer, ids in weights if layer not in slim]:
            units = self.labels[ids].tolist()
            if layer not in kept and layer not in giving and all(unit in self.fixed for unit in units):
                kept[layer] = self.fixed[units[0]]
        return kept


def layout(net: nn.Module, ties: Ties, solution: Solution, rounding: Rounding) -> Layout:
    """The layout of the network that the ties describe.

    Raises:
        Conflict: the channels of a parameter do not lie along one of its axes.
    """
    _check_names(ties, rounding)
    names = _aliases(net)
    axes: dict[str, dict[int, Axis]] = {}
    norm_inputs: dict[str, Axis] = {}
    for (name, dim), ids in ties.atoms.items():
        if dim == "input":
            axis = solution.axis(ids)
            if _slims(axis):
                norm_inputs[name] = axis
            continue
        shape = names[name][0].shape
        found = {dim: solution.axis(ids)} if isinstance(dim, int) else _element_axis(solution, name, ids, shape)
        found = {d: axis for d, axis in found.items() if _slims(axis)}
        for alias in names[name][1] if found else []:
            if any(axes.get(alias, {}).get(d, axis) != axis for d, axis in found.items()):
                raise Conflict(name, ids, f"is used in two ways that slim differently: '{name}'")
            axes.setdefault(alias, {}).update(found)
    groups = tuple(solution.group(made_by, rounding) for made_by in solution.groups)
    idle, statistics = tuple(_idle(net, ties)), _statistics(ties, solution)
    return Layout(groups, axes, norm_inputs, solution.kept(), idle, statistics=statistics, followed=True)


def _statistics(ties: Ties, solution: Solution) -> dict[str, str]:
    """Module -> the operations in it that are of the active channels."""
    found: dict[str, list[str]] = {}
    for (module, operation), columns in ties.statistics.items():
        if any(bool(solution.slims[ids].any()) for ids in columns):
            found.setdefault(module, []).append(operation.removeprefix("native_"))
    return {module: ", ".join(operations) for module, operations in found.items()}


def number_axes(ties: Ties, solution: Solution) -> dict[str, dict[str, Axis]]:
    """Attributes of modules that hold a number of channels, where these slim."""
    found: dict[str, dict[str, Axis]] = {}
    for (module, attribute), ids in ties.numbers.items():
        axis = solution.axis(ids)
        if _slims(axis):
            found.setdefault(module, {})[attribute] = axis
    return found


def _check_names(ties: Ties, rounding: Rounding) -> None:
    makers = [layer_of(name) for name, _ in ties.producers]
    for wanted in rounding.divisors:
        if wanted not in makers:
            near = difflib.get_close_matches(wanted, makers, n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ValueError(f"divisors names {wanted!r}, which is no layer that makes channels of its own{hint}")


def segments(channels: list[Place | None]) -> Axis:
    """Consecutive channels as segments: stays, or units in order that have equally many channels each."""
    runs: list[tuple[Place | None, int]] = []  # equal places side by side
    for place in channels:
        if runs and runs[-1][0] == place:
            runs[-1] = (place, runs[-1][1] + 1)
        else:
            runs.append((place, 1))
    found: list[Segment] = []
    for place, size in runs:
        if place is None:
            found.append(Segment(None, size))
            continue
        group, unit = place
        last = found[-1] if found else None
        if last and last.group == group and last.start + last.units == unit and last.channels == size:
            found[-1] = Segment(group, last.units + 1, size, last.start)
        else:
            found.append(Segment(group, 1, size, unit))
    return tuple(found)


def _slims(axis: Axis) -> bool:
    return any(segment.group is not None for segment in axis)


def _element_axis(solution: Solution, name: str, ids: Tensor, shape: torch.Size) -> dict[int, Axis]:
    """The axis along which the elements of a bias or an embedding follow channels; some may have met nothing."""
    if not bool(solution.slims[ids].any()):
        return {}
    if len(shape) == 1:
        return {0: solution.axis(ids)}
    met = ~solution.alone[ids].view(shape)
    units = torch.where(met, solution.labels[ids].view(shape), -1)
    columns: dict[int, Tensor] = {}
    for dim, size in enumerate(shape):
        rows, of_row = (x.movedim(dim, 0).reshape(size, -1) for x in (units, ids.view(shape)))
        unit, first = rows.max(1)
        if bool(((rows == unit[:, None]) | (rows < 0)).all()):
            columns[dim] = of_row.gather(1, first[:, None])[:, 0]
    if not columns:
        raise Conflict(name, ids, f"its channels do not lie along one of the axes of '{name}' {tuple(shape)}")
    dim = max(columns, key=lambda d: len(torch.unique(solution.labels[columns[d]])))
    return {dim: solution.axis(columns[dim])}


def _aliases(net: nn.Module) -> dict[str, tuple[Tensor, list[str]]]:
    """First name of every parameter and buffer -> itself and all its names."""
    first: dict[int, str] = {}
    found: dict[str, tuple[Tensor, list[str]]] = {}
    for name, value in _tensors(net):
        key = first.setdefault(id(value), name)
        found.setdefault(key, (value, []))[1].append(name)
    return found


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in net.named_modules(remove_duplicate=False):
        for name, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is not None:
                yield f"{prefix}.{name}".lstrip("."), value


def _idle(net: nn.Module, ties: Ties) -> list[str]:
    """Layers none of whose parameters met an operation."""
    idle = dict.fromkeys(layer_of(name) for name, _ in net.named_parameters())
    for name, _ in net.named_parameters():
        if name in ties.met:
            idle.pop(layer_of(name), None)
    return list(idle)
