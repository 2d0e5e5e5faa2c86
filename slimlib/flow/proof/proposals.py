"""Propose, then prove: which numbers that a module holds depend on the width, and which groups must agree for them.

Attention reshapes by its number of heads, a whole attribute; GPT-2 cuts by `split_size`; others compute
`channels // heads`, which comes out right only if both shrink in proportion. None of this can be seen in a run of the
full network. So where the sliced network fails, every attribute is proposed that equals a number of channels, and is
kept if the run then goes on as the layout says; else groups are proposed that must agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice

import torch
from torch import Tensor, nn

from slimlib.core.layout import axis_size
from slimlib.core.width import WidthPlan
from slimlib.flow.ids import distinct, varying
from slimlib.flow.proof.check import END, Failure, Followed, Held, Proof
from slimlib.flow.solve import Solution
from slimlib.flow.steps import Choices, Counted, alike, class_or_name, upwards
from slimlib.flow.ties import Ties

TRIALS = 60  # of numbers of one module, at one plan
Options = Mapping[str, Sequence[Tensor]]  # attribute -> the ids of the channels whose number it may hold
Chosen = Sequence[tuple[str, int]]  # attributes, and which of its options each holds


def propose(net: nn.Module, proof: Proof, failure: Failure, choices: Choices) -> bool:
    """Add to `choices` numbers, or groups that must agree, with which the sliced network gets beyond the failure."""
    axes = Axes(net, proof.found)
    channels = proof.channels(failure.width)
    for name in upwards(failure.module):
        if _numbers(axes, proof, failure, choices, name, WidthPlan(channels)):
            return True
        for groups in _groups_that_meet(axes, failure, name):
            proportional = _in_proportion(proof.found.solution, groups, channels)
            if proportional is None or proportional == channels:
                continue
            if proof.progress(failure.training, WidthPlan(proportional), {}) > failure.position:
                keys = list(proof.found.solution.groups)
                choices.agree.append(tuple(keys[g] for g in sorted(groups)))
                return True
            if _numbers(axes, proof, failure, choices, name, WidthPlan(proportional)):
                return True
    return False


def _numbers(axes: Axes, proof: Proof, failure: Failure, choices: Choices, name: str, plan: WidthPlan) -> bool:
    """Whether numbers of a module let the run go on for longer: one alone, else two, else all that are likeliest."""
    kind, source = class_or_name(axes.net, name), class_or_name(axes.net, failure.module)
    options = {n: axes.options(n, source) for n in alike(axes.net, name)}
    ranked = [(path, rank) for path, known in options[name].items() for rank in range(len(known))]
    ranked = [(path, rank) for path, rank in ranked if (kind, path) not in choices.numbers]
    if not ranked:
        return False
    before = proof.progress(failure.training, plan, {})
    for stage in ([[one] for one in ranked], _pairs(ranked), [[(path, rank) for path, rank in ranked if not rank]]):
        trials: list[tuple[int, Chosen]] = []
        for chosen in islice(stage, TRIALS):
            trials.append((proof.progress(failure.training, plan, _trial(options, chosen)), chosen))
            if trials[-1][0] == END:
                break
        for after, chosen in sorted(trials, key=lambda trial: -trial[0]):
            if after > before and proof.agrees(failure.training, plan, _trial(options, chosen)):
                choices.numbers.update({(kind, path): Counted(source, rank) for path, rank in chosen})
                return True
    return False


def _trial(options: Mapping[str, Options], chosen: Chosen) -> Held:
    return {name: _held(own, chosen) for name, own in options.items()}


def _pairs(ranked: Chosen) -> Iterator[Chosen]:
    return (pair for pair in combinations(ranked, 2) if pair[0][0] != pair[1][0])


def _held(options: Options, chosen: Chosen) -> dict[str, Tensor]:
    """The ids whose number the attributes of one module hold."""
    return {path: options[path][min(rank, len(options[path]) - 1)] for path, rank in chosen if path in options}


def numbers(net: nn.Module, found: Followed, choices: Choices) -> dict[tuple[str, str], Tensor]:
    """(module, attribute) -> the ids of the channels whose number it holds, of the attributes chosen."""
    axes = Axes(net, found)
    made: dict[tuple[str, str], Tensor] = {}
    for name, _ in net.named_modules():
        kind = class_or_name(net, name)
        for (other, path), counted in choices.numbers.items():
            if other == kind:
                held = _held(axes.options(name, counted.known_in), [(path, counted.rank)])
                made |= {(name, path): ids for path, ids in held.items()}
    return made


class Axes:
    """The axes that are known in each module: of what enters, of its parameters, of what it computes."""

    def __init__(self, net: nn.Module, found: Followed) -> None:
        self.net, self.found = net, found
        self.kinds = {name: class_or_name(net, name) for name, _ in net.named_modules()}
        self.columns: dict[str, list[Tensor]] = {}
        for name, entered in found.entered.items():
            for ids in entered:
                self._add(name, ids)
        for (parameter, dim), ids in found.ties.atoms.items():
            if isinstance(dim, int):
                owner = parameter.rpartition(".")[0]
                for name in {owner, owner.rpartition(".")[0]}:
                    self._add(name, ids)
        for log in found.logs.values():
            for step in log:
                for shadow in step.outputs:
                    if isinstance(shadow, Tensor):
                        self._add(step.module, shadow)

    def _add(self, name: str, ids: Tensor) -> None:
        own = self.columns.setdefault(name, [])
        for dim in varying(ids):
            own.append(distinct(ids).movedim(dim, 0).reshape(ids.shape[dim], -1)[:, 0])

    def options(self, name: str, source: str) -> dict[str, list[Tensor]]:
        """Attributes of a module -> the ids of the channels whose number each may hold, likeliest first.

        These are known in the module itself, or in the first one of class `source` that is in it.
        """
        held = whole_numbers(self.net.get_submodule(name))
        wanted, solution = set(held.values()), self.found.solution
        known: dict[int, dict[object, Tensor]] = {}
        inner = next((n for n in self.columns if self.kinds[n] == source and _is_inside(n, name)), name)
        for ids in [*self.columns.get(name, ()), *(self.columns.get(inner, ()) if inner != name else ())]:
            if len(ids) in wanted:
                axis = solution.axis(ids)
                if axis_size(axis, [1] * len(solution.groups)) < len(ids):
                    known.setdefault(len(ids), {}).setdefault(axis, ids)
        return {path: list(known[value].values()) for path, value in held.items() if value in known}

    def groups(self, shadows: Sequence[object]) -> set[int]:
        """The groups that have channels in these tensors."""
        places, labels = self.found.solution.places, self.found.solution.labels
        units = [labels[torch.unique(distinct(ids))] for ids in shadows if isinstance(ids, Tensor)]
        return {places[unit][0] for unit in torch.cat(units).tolist() if unit in places} if units else set()


def _is_inside(name: str, outer: str) -> bool:
    return name.startswith(f"{outer}.") or not outer


def whole_numbers(module: nn.Module) -> dict[str, int]:
    """The whole numbers that a module holds: attributes, items of tuples and lists, and what plain objects hold."""
    found: dict[str, object] = {}
    for name, value in vars(module).items():
        if isinstance(value, tuple | list):
            found |= {f"{name}.{i}": item for i, item in enumerate(value)}
        elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | Tensor | type) and not callable(value):
            found |= {f"{name}.{inner}": item for inner, item in vars(value).items()}
        else:
            found[name] = value
    return {path: value for path, value in found.items() if type(value) is int and value > 1}


def _groups_that_meet(axes: Axes, failure: Failure, name: str) -> Iterator[set[int]]:
    """Groups that may have to agree: those of the operation that failed and of what enters, or all of the module."""
    step = [*failure.following.inputs, *failure.following.outputs] if failure.following else []
    near = axes.groups([*step, *axes.found.entered.get(name, ())])
    every = axes.groups(axes.columns.get(name, ())) | near
    for groups in (near, every) if near != every else (near,):
        if len(groups) > 1:
            yield groups


def _in_proportion(solution: Solution, groups: set[int], channels: tuple[int, ...]) -> tuple[int, ...] | None:
    """The channels, but of these groups as many in proportion as of the smallest; None if that leaves a rest."""
    units = [len(of_group) for of_group in solution.groups.values()]
    smallest = min(groups, key=lambda g: units[g])
    if any(units[g] % units[smallest] for g in groups):
        return None
    count = min(channels[smallest], max(1, units[smallest] - 1))
    return tuple(count * (units[g] // units[smallest]) if g in groups else own for g, own in enumerate(channels))


def agree(ties: Ties, choices: Choices) -> None:
    """Tie the groups that must agree, each unit of the smallest with as many of the others as there are to one."""
    for keys in choices.agree:
        groups = Solution(ties).groups
        meeting = sorted((torch.tensor(groups[key]) for key in keys if key in groups), key=len)
        for units in meeting[1:]:
            if len(units) % len(meeting[0]) == 0:
                ties.tie(units.view(len(meeting[0]), -1), meeting[0][:, None], "")
