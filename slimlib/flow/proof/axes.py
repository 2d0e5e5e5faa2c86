"""The axes of channels that are known in each module of a network, and the whole numbers that it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from slimlib.core.layout import Axis, axis_size
from slimlib.flow.ids import Shadow, distinct, varying
from slimlib.flow.solve import Solution
from slimlib.flow.steps import Agreement, Place, Site, Step, class_or_name, is_inside
from slimlib.flow.ties import Ties


class Option(NamedTuple):
    """Channels whose number an attribute may hold, and where they are known."""

    ids: Tensor
    places: set[Place]


class Axes:
    """The axes of what enters a module, of its parameters, and of what it computes."""

    def __init__(
        self,
        net: nn.Module,
        ties: Ties,
        logs: Mapping[bool, Sequence[Step]],
        entered: Mapping[str, Sequence[Tensor]],
        solution: Solution,
    ) -> None:
        self.net, self.entered, self.solution = net, entered, solution
        self.kinds = {name: class_or_name(net, name) for name, _ in net.named_modules()}
        self.steps: dict[str, list[Step]] = {}
        for step in [step for log in logs.values() for step in log]:
            self.steps.setdefault(step.module, []).append(step)
        self.parameters: dict[str, list[tuple[Place, Tensor]]] = {}  # of a module and of its layers
        for (parameter, dim), ids in ties.atoms.items():
            if isinstance(dim, int):
                owner = parameter.rpartition(".")[0]
                for name in {owner, owner.rpartition(".")[0]}:
                    self.parameters.setdefault(name, []).append(((parameter[len(name) :], dim), ids))
        self._columns: dict[str, list[tuple[Place, Tensor]]] = {}
        self._options: dict[tuple[str, str], dict[str, list[Option]]] = {}

    def columns(self, name: str) -> list[tuple[Place, Tensor]]:
        """Every axis that is known in a module: where, and the ids along it."""
        if name not in self._columns:
            known: list[tuple[Place, Shadow | None]] = [((i,), ids) for i, ids in enumerate(self.entered.get(name, ()))]
            known += self.parameters.get(name, ())
            for step in self.steps.get(name, ()):
                known += [((step.site, i), shadow) for i, shadow in enumerate(step.outputs)]
            self._columns[name] = [
                ((*place, dim), ids)
                for place, shadow in known
                if isinstance(shadow, Tensor)
                for dim, ids in _along(shadow)
            ]
        return self._columns[name]

    def options(self, name: str, source: str) -> dict[str, list[Option]]:
        """Attributes of a module -> the channels whose number each may hold, likeliest first.

        These are known in the module itself, or in the first one of class `source` that is in it, or that it is in.
        """
        if (name, source) not in self._options:
            self._options[name, source] = self._known_options(name, source)
        return self._options[name, source]

    def _known_options(self, name: str, source: str) -> dict[str, list[Option]]:
        held = whole_numbers(self.net.get_submodule(name))
        wanted: set[int] = set(held.values())
        known: dict[int, dict[Axis, Option]] = {}
        near = (n for n in self.steps if self.kinds[n] == source and n != name)
        inner = next((n for n in near if is_inside(n, name) or is_inside(name, n)), None)
        columns = self.columns(name) if wanted else []
        if wanted and inner is not None:
            columns = columns + [((source, *place), ids) for place, ids in self.columns(inner)]
        units = [(("units", *place), once) for place, ids in columns if len(once := _units(ids)) in wanted]
        for place, ids in columns + units:
            if len(ids) in wanted and axis_size(axis := self.solution.axis(ids), self._smallest) < len(ids):
                known.setdefault(len(ids), {}).setdefault(axis, Option(ids, set())).places.add(place)
        return {path: list(known[value].values()) for path, value in held.items() if value in known}

    def silent(self, name: str) -> list[str]:
        """The modules right in a module of which no forward ran: what they hold is read by code that is not theirs."""
        inside = [f"{name}.{child}".lstrip(".") for child, _ in self.net.get_submodule(name).named_children()]
        return [n for n in inside if n in self.kinds and n not in self.entered and n not in self.steps]

    @property
    def _smallest(self) -> list[int]:
        return [1] * len(self.solution.groups)

    def meeting(self, name: str, agreement: Agreement) -> list[list[Tensor]]:
        """What an agreement means in a module: groups, as their units, or lists of those that are joined."""
        shadows: list[object] = list(self.entered.get(name, ()))
        shadows += [ids for _, ids in self.columns(name)] if agreement.every else []
        if (step := self._step_at(name, agreement.site)) is not None:
            shadows += [*step.inputs, *step.outputs]
        of_group = [torch.tensor(units) for units in self.solution.groups.values()]
        met = [self.solution.group_of[distinct(ids)] for ids in shadows if isinstance(ids, Tensor)]
        found = sorted({group for groups in met for group in groups.unique().tolist() if group >= 0})
        if not agreement.joined:
            return [[of_group[group]] for group in found]
        along = [ids for shadow in shadows if isinstance(shadow, Tensor) for _, ids in _along(shadow)]
        rows = [[g for g in dict.fromkeys(self.solution.group_of[ids].tolist()) if g >= 0] for ids in along]
        joints: list[list[int]] = []
        for row in sorted([*rows, *([group] for group in found)], key=len, reverse=True):
            if row and not any(set(row) & set(joint) for joint in joints):
                joints.append(row)
        return [[of_group[group] for group in joint] for joint in joints]

    def _step_at(self, name: str, site: Site | None) -> Step | None:
        """The first operation of a module, or of those in it, that is at a place."""
        inside = (step for n, steps in self.steps.items() if is_inside(n, name) for step in steps)
        return next((step for step in inside if within(step.site, name) == site), None)


def within(site: Site, name: str) -> Site:
    """A place as seen from a module: that of a layer without a class of its own by the name that it has in there."""
    kind = site[0]
    return (f"'{kind[len(name) + 2 :]}", *site[1:]) if name and kind.startswith(f"'{name}.") else site


def _along(ids: Tensor) -> Iterator[tuple[int, Tensor]]:
    for dim in varying(ids):
        yield dim, distinct(ids).movedim(dim, 0).reshape(ids.shape[dim], -1)[:, 0]


def _units(ids: Tensor) -> Tensor:
    """Each channel of an axis once, in order: the heads of an axis that has each for every image."""
    known, places, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    if not bool((counts == counts[0]).all()):
        return ids
    first = torch.full_like(known, len(ids)).scatter_reduce(0, places, torch.arange(len(ids)), "amin")
    return ids[first.sort().values]


def whole_numbers(module: nn.Module) -> dict[str, int]:
    """The whole numbers that a module holds: attributes, items of tuples and lists, and what plain objects hold."""
    found: dict[str, object] = {}
    for name, value in vars(module).items():
        plain = hasattr(value, "__dict__") and not isinstance(value, nn.Module | Tensor | type) and not callable(value)
        held = {f"{name}.{inner}": item for inner, item in vars(value).items()} if plain else {name: value}
        for path, item in held.items():
            listed = isinstance(item, tuple | list)
            found |= {f"{path}.{i}": one for i, one in enumerate(item)} if listed else {path: item}
    return {path: value for path, value in found.items() if type(value) is int and value > 1}
