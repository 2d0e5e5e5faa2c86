"""From ties to units, groups and the layout."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn

from slimlib.core.layout import Axis, Group, Layout, Segment
from slimlib.core.width import fitting_divisor
from slimlib.flow.ids import AtomKey, layer_of
from slimlib.flow.ties import Ties

UNIT_BITS, STAYS = 32, -2  # a place is group << UNIT_BITS | unit, or STAYS, which is not one before any
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
    """The units that the ties leave, in groups with the same producers, and in the same parts of them, in order.

    group_of: the group of each id's unit; -1: it stays. places: the same and which unit of it, in one number.
    """

    def __init__(self, ties: Ties) -> None:
        self.ties = ties
        self.labels = ties.labels()
        self.fixed = ties.fixed()
        found = {made_by: units for made_by, units in self._by_makers().items() if made_by[0]}
        for (keys, _), units in found.items():
            if len(units) == 1:
                self.fixed[units[0]] = (
                    f"all its channels are tied into one unit, with those of '{layer_of(keys[0][0])}'"
                )
        self.groups = {made_by: units for made_by, units in found.items() if len(units) > 1}
        group, rank = torch.full((len(self.labels),), -1), torch.zeros(len(self.labels), dtype=torch.long)
        for g, of_group in enumerate(self.groups.values()):
            group[of_group], rank[of_group] = g, torch.arange(len(of_group))
        self.group_of, self._rank = group[self.labels], rank[self.labels]
        self.places = torch.where(self.group_of < 0, STAYS, self.group_of << UNIT_BITS | self._rank)
        self.slims = self.group_of >= 0
        self.alone = torch.bincount(self.labels, minlength=len(self.labels))[self.labels] == 1  # ids that met nothing

    def _by_makers(self) -> dict[Makers, list[int]]:
        """Who makes units, and which part of which divided axis they are in -> the units, if they need not stay."""
        code = torch.zeros(len(self.labels), dtype=torch.long)
        made: list[Makers] = [((), ())]  # what the codes of units mean

        def mark(ids: Tensor, keys: tuple[AtomKey, ...], parts: tuple[tuple[int, int], ...]) -> None:
            units = torch.unique(self.labels[ids])
            before, which = torch.unique(code[units], return_inverse=True)
            code[units] = which + len(made)
            made.extend((made[c][0] + keys, made[c][1] + parts) for c in before.tolist())

        for key in self.ties.producers:
            mark(self.ties.atoms[key], (key,), ())
        for division, parts in enumerate(self.ties.divided):
            for part, ids in enumerate(parts):
                mark(ids, (), ((division, part),))
        code[list(self.fixed)] = 0
        units = code.nonzero()[:, 0]
        codes, order = torch.sort(code[units], stable=True)
        used, sizes = torch.unique_consecutive(codes, return_counts=True)
        groups = [of_group.tolist() for of_group in units[order].split(sizes.tolist())]
        return {made[c]: group for group, c in sorted(zip(groups, used.tolist(), strict=True))}

    def active(self, channels: Sequence[int]) -> Tensor:
        """Whether each id is active when group g has channels[g] units; id 0 and what stays always are."""
        return torch.lt(self._rank, torch.tensor([*channels, 1])[self.group_of])

    def axis(self, ids: Tensor) -> Axis:
        """Consecutive channels as segments: stays, or units in order that have equally many channels each."""
        if not len(ids):
            return ()
        places, sizes = torch.unique_consecutive(self.places[ids], return_counts=True)
        begins = (places[1:] != places[:-1] + 1) | (sizes[1:] != sizes[:-1])
        edges = [0, *(begins.nonzero()[:, 0] + 1).tolist(), len(places)]
        found = []
        for begin, end in pairwise(edges):
            place, size = int(places[begin]), int(sizes[begin])
            group, unit = place >> UNIT_BITS, place & (1 << UNIT_BITS) - 1
            found.append(Segment(None, size) if place == STAYS else Segment(group, end - begin, size, unit))
        return tuple(found)

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
        """The first unit of each group -> its channels in each axis where it has any."""
        slot = torch.where(self._rank == 0, self.group_of, -1)
        found: dict[int, list[int]] = {units[0]: [] for units in self.groups.values()}
        for ids in self.ties.atoms.values():
            counts = torch.bincount(slot[ids] + 1, minlength=len(found) + 1)[1:]
            for channels, count in zip(found.values(), counts.tolist(), strict=True):
                channels += [count] if count else []
        return found

    def kept(self) -> dict[str, str]:
        """Layers whose outputs all stay full, or all of which stays, -> why."""
        kept = dict(self.ties.blocked)
        stays = torch.zeros(len(self.labels), dtype=torch.bool)
        stays[list(self.fixed)] = True
        slim = {layer_of(key[0]) for key, ids in self.ties.atoms.items() if bool(self.slims[ids].any())}
        made = [(layer_of(key[0]), self.ties.atoms[key]) for key in self.ties.producers]
        giving = {layer for layer, ids in made if bool(self.slims[ids].any())}  # an embedding may also give classes
        weights = [(layer_of(key[0]), ids) for key, ids in self.ties.atoms.items() if isinstance(key[1], int)]
        for layer, ids in made + [(layer, ids) for layer, ids in weights if layer not in slim]:
            if layer not in kept and layer not in giving and bool(stays[self.labels[ids]].all()):
                kept[layer] = self.fixed[int(self.labels[ids[0]])]
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
    return Layout(
        groups,
        axes,
        norm_inputs,
        solution.kept(),
        idle,
        like=dict(ties.like),
        statistics=statistics,
        caches=tuple(sorted(ties.caches)),
        followed=True,
    )


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
