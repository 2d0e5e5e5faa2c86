"""Propose, then prove: which numbers that a module holds depend on the width, and which groups must agree for them.

Attention reshapes by its number of heads, a whole attribute; GPT-2 cuts by `split_size`; others compute
`channels // heads`, which comes out right only if both shrink in proportion. None of this can be seen in a run of the
full network. So where the sliced network fails, every attribute is proposed that equals a number of channels, and is
kept if the run then goes on as the layout says, with the numbers of the masked network; else groups are proposed that
must agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from slimlib.core.width import WidthPlan
from slimlib.flow.proof.axes import Axes, Option, within
from slimlib.flow.proof.check import END, Failure, Held, Proof
from slimlib.flow.proof.followed import Followed
from slimlib.flow.solve import Solution
from slimlib.flow.steps import Agreement, Choices, Counted, Place, Step, alike, shapes_of, upwards
from slimlib.flow.ties import Ties

TRIALS = 60  # of several numbers of one module together, at one plan
JOINTLY, FRONT = 3, 4  # numbers that are tried together, and how many of the best trials are tried with one more
SIZES: Mapping[type[nn.Module], tuple[str, ...]] = {
    nn.Embedding: ("embedding_dim",),
    nn.Linear: ("out_features", "in_features"),
    _ConvNd: ("out_channels", "in_channels"),
}
"""What layers tell of their size, and compute nothing with."""
Options = Mapping[str, Sequence[Option]]  # attribute -> the channels whose number it may hold
Chosen = Sequence[tuple[str, int]]  # attributes, and which of its options each holds
Trial = tuple[float, str, Chosen]  # how far a run got, and what stopped it


def propose(proof: Proof, failure: Failure, choices: Choices) -> bool:
    """Add to `choices` numbers, or groups that must agree, with which the sliced network gets beyond the failure."""
    found = proof.found
    axes = found.axes
    channels = proof.channels(failure.width)
    for name in upwards(failure.module):
        for holder in (name, *axes.silent(name)):
            if _numbers(axes, proof, failure, choices, holder, WidthPlan(channels)):
                return True
        for agreement in _agreements(axes.kinds[name], name, failure):
            meeting = axes.meeting(name, agreement)
            plan = _agreeing(axes, name, agreement, channels)
            alone = all(len(joint) == 1 for joint in meeting)
            if plan is None or plan.channels == channels or (agreement.joined and alone):
                continue
            if proof.progress(failure, plan, {})[0] > failure.position:
                choices.agree.append(agreement)
                return True
            if _numbers(axes, proof, failure, choices, name, plan):
                return True
    return any(
        _numbers(axes, proof, failure, choices, holder, WidthPlan(channels), again=True)
        for name in upwards(failure.module)
        for holder in (name, *axes.silent(name))
    )


def sizes_that_stay(proof: Proof, failure: Failure, choices: Choices) -> bool:
    """Add to `choices` the size of a layer that forward computes with: sqrt(embedding_dim) is that of the full one."""
    found = proof.found
    for child, layer in found.net.get_submodule(failure.module).named_children():
        name = f"{failure.module}.{child}".lstrip(".")
        for attribute in next((own for kind, own in SIZES.items() if isinstance(layer, kind)), ()):
            if (name, attribute) in choices.sizes or f"{name}.weight" not in found.layout.axes:
                continue
            full = torch.zeros(getattr(layer, attribute), dtype=torch.long)  # ids of what stays
            if proof.corrects(failure, {name: {attribute: full}}):
                same = alike(found.net, failure.module)
                choices.sizes |= {(f"{n}.{child}".lstrip("."), attribute) for n in same}
                return True
    return False


def _agreements(kind: str, name: str, failure: Failure) -> list[Agreement]:
    """What may have to agree in a module: at the operation that failed, or before the code that did; or all of it."""
    sites = [within(step.site, name) for step in (failure.following, failure.preceding) if step is not None]
    first = sites[0] if sites else None
    found = [*(Agreement(kind, site, every=False) for site in sites), Agreement(kind, first, every=True)]
    return found + [replace(agreement, joined=True) for agreement in found]


def _numbers(
    axes: Axes, proof: Proof, failure: Failure, choices: Choices, name: str, plan: WidthPlan, *, again: bool = False
) -> bool:
    """Whether numbers of a module let the run leave it: one alone, else more; or else all let it go on for longer.

    again: those that were chosen count something else, which had as many channels at the plan where they were.
    """
    trials = _Trials(axes, proof, failure, choices, name, plan, again)
    if not trials.ranked:
        return False
    longer: list[Trial] = []  # what got further than the run before, but not out of the module
    front: list[Chosen] = [()]
    spare = TRIALS + len(trials.ranked)
    for _ in range(JOINTLY):
        made = []
        lists = _whole_lists(trials.free) if front == [()] and not again else []
        for chosen in islice(chain(_grown(front, trials.ranked), lists), spare):
            made.append(trials.run(chosen))
            if made[-1][0] == END and trials.accept(made[-1]):
                return True
        spare -= len(made)
        further = sorted((trial for trial in made if trials.before[0] < trial[0] < END), key=lambda trial: -trial[0])
        longer += further
        read = [trial[2] for trial in made if trial[:2] != trials.before]  # the others are not read before another is
        front = [trial[2] for trial in further[:FRONT]] or (read if front == [()] else [])
    if (trials.kind, shapes_of(axes.net.get_submodule(failure.module))) in choices.refused:
        return False
    longer.append(trials.run([(path, rank) for path, rank in trials.ranked if not rank]))
    return any(trials.accept(trial) for trial in sorted(longer, key=lambda trial: -trial[0]))


class _Trials:
    """Runs in which the modules of a class hold other numbers.

    free: the attributes that may be chosen, and what each may hold.
    read: those of which runs so far asked for the value; the others change nothing.
    before: how far the run gets without any, and what stops it.
    """

    def __init__(
        self, axes: Axes, proof: Proof, failure: Failure, choices: Choices, name: str, plan: WidthPlan, again: bool
    ) -> None:
        self.proof, self.failure, self.choices, self.name, self.plan = proof, failure, choices, name, plan
        self.kind, self.source, self.again = axes.kinds[name], axes.kinds[failure.module], again
        self.options = {n: axes.options(n, self.source) for n in alike(axes.net, name)}
        counted = {path: c.places for (kind, path), c in choices.numbers.items() if kind == self.kind}
        held = _held(self.options[name], counted)
        self.free = {path: known for path, known in self.options[name].items() if (path in held) == again}
        self.wrong = {
            path: choices.disproved.get((self.kind, path), frozenset()) | counted.get(path, frozenset())
            for path in held
        }
        self._ranked = [
            (path, rank)
            for path, known in self.free.items()
            for rank, option in enumerate(known)
            if option.places.isdisjoint(self.wrong.get(path, ()))
        ]
        self.left = name if name in upwards(failure.module) else failure.module
        self.read: set[str] = set()
        self.before: tuple[float, str] = (0.0, "")
        if self._ranked:
            self.before = self.run([])[:2]

    @property
    def ranked(self) -> Chosen:
        """Each of the attributes that are read with each of its options, by the place of that."""
        return [(path, rank) for path, rank in self._ranked if path.partition(".")[0] in self.read]

    def run(self, chosen: Chosen) -> Trial:
        done = self.before[0] / max(1, len(self.proof.found.logs[self.failure.training]))
        self.proof.tell(f"tries numbers of '{self.name}'", done)
        with _noting_reads([self.proof.slim.get_submodule(name) for name in self.options], self.read):
            return *self.proof.progress(self.failure, self.plan, self._holding(chosen), self.left), chosen

    def accept(self, trial: Trial) -> bool:
        """Choose what got further, if its numbers are right."""
        if trial[0] <= self.before[0] or not self.proof.agrees(self.failure, self.plan, self._holding(trial[2])):
            return False
        for path, rank in trial[2]:
            found = Counted(self.source, frozenset(self.options[self.name][path][rank].places))
            if self.again:
                self.choices.disproved[self.kind, path] = self.wrong[path]
            elif (known := self.choices.numbers.get((self.kind, path))) is not None:
                found = replace(known, places=known.places | found.places)
            self.choices.numbers[self.kind, path] = found
        if trial[0] < END:
            self.choices.partly.add(self.kind)
        return True

    def _holding(self, chosen: Chosen) -> Held:
        places = {path: self.options[self.name][path][rank].places for path, rank in chosen}
        return {n: _held(own, places) for n, own in self.options.items()}


@contextmanager
def _noting_reads(modules: Sequence[nn.Module], read: set[str]) -> Iterator[None]:
    """Within the block `read` is told which attributes of the modules are asked for."""
    before = [type(module) for module in modules]
    noting = {kind: _noting(kind, read) for kind in set(before)}
    try:
        for module, kind in zip(modules, before, strict=True):
            module.__class__ = noting[kind]
        yield
    finally:
        for module, kind in zip(modules, before, strict=True):
            module.__class__ = kind


def _noting(kind: type[nn.Module], read: set[str]) -> type[nn.Module]:
    def ask(module: nn.Module, name: str) -> Any:
        read.add(name)
        return kind.__getattribute__(module, name)

    return type(kind.__name__, (kind,), {"__getattribute__": ask, "__module__": kind.__module__})


def _grown(front: Sequence[Chosen], ranked: Chosen) -> Iterator[Chosen]:
    """What is chosen with one attribute more, each choice once."""
    seen: set[frozenset[tuple[str, int]]] = set()
    for chosen in front:
        for path, rank in ranked:
            if path not in dict(chosen) and (made := frozenset([*chosen, (path, rank)])) not in seen:
                seen.add(made)
                yield (*chosen, (path, rank))


def _whole_lists(options: Options) -> list[Chosen]:
    """All items of each list that a module holds, as sizes of parts; of equal ones each is that of another part."""
    lists: dict[str, list[tuple[str, int]]] = {}
    for path, known in options.items():
        name, _, item = path.rpartition(".")
        if item.isdigit():
            items = lists.setdefault(name, [])
            before = sum(len(options[other][0].ids) == len(known[0].ids) for other, _ in items)
            items.append((path, min(before, len(known) - 1)))
    return [items for items in lists.values() if len(items) > 1]


def _held(options: Options, places: Mapping[str, Set[Place]]) -> dict[str, Tensor]:
    """The ids whose number the attributes of one module hold: of the channels that are known at these places."""
    found = {
        path: next((option.ids for option in options.get(path, ()) if not option.places.isdisjoint(own)), None)
        for path, own in places.items()
    }
    return {path: ids for path, ids in found.items() if ids is not None}


def _agreeing(axes: Axes, name: str, agreement: Agreement, channels: tuple[int, ...]) -> WidthPlan | None:
    """The channels, but in proportion where they must agree in a module, and in the others of its class."""
    plan = None
    meetings = {n: axes.meeting(n, agreement) for n in (name, *alike(axes.net, name))}
    while meetings:
        first = next(iter(meetings))
        joints = meetings.pop(first)
        met = {g for joint in joints for g in _groups(axes.solution, joint)}
        for other, more in list(meetings.items()):
            fresh = [joint for joint in more if met.isdisjoint(_groups(axes.solution, joint))]
            if len(fresh) < len(more):  # of one trunk: they agree with each other
                met |= {g for joint in fresh for g in _groups(axes.solution, joint)}
                joints = joints + fresh
                del meetings[other]
        found = _in_proportion(axes.solution, joints, channels)
        if first == name and found is None:
            return None
        plan, channels = (found, found.channels) if found else (plan, channels)
    return plan


def _groups(solution: Solution, joint: Sequence[Tensor]) -> dict[int, int]:
    """The groups of a joint -> how many units each has."""
    return {int(solution.group_of[units[0]]): len(units) for units in joint}


def _in_proportion(
    solution: Solution, meeting: Sequence[Sequence[Tensor]], channels: tuple[int, ...]
) -> WidthPlan | None:
    """The channels, but of these groups in proportion to the smallest; None if they have no parts in common."""
    joints = [_groups(solution, joint) for joint in meeting]
    sizes = [sum(joint.values()) for joint in joints]
    parts = gcd(*sizes)
    if len(joints) < 2 or parts < 2:
        return None
    smallest = min(range(len(joints)), key=lambda i: sizes[i])
    count = min(max(1, sum(channels[g] for g in joints[smallest]) * parts // sizes[smallest]), parts - 1)
    plan = list(channels)
    for joint, size in zip(joints, sizes, strict=True):
        for g, own in _shared_out(size * count // parts, joint, channels).items():
            plan[g] = own
    return WidthPlan(plan)


def _shared_out(count: int, joint: Mapping[int, int], channels: tuple[int, ...]) -> dict[int, int]:
    """So many units in all, of groups of these sizes: what each has by now, and the first ones more or fewer."""
    found = {g: channels[g] for g in joint}
    for g, size in joint.items():
        found[g] = min(max(1, found[g] + count - sum(found.values())), size)
    return found


def agree(
    net: nn.Module,
    ties: Ties,
    logs: Mapping[bool, Sequence[Step]],
    entered: Mapping[str, Sequence[Tensor]],
    choices: Choices,
) -> None:
    """Tie the groups that must agree, in as many parts as all of them can be cut into; if that is one, they stay."""
    for agreement in choices.agree:
        axes = Axes(net, ties, logs, entered, Solution(ties))
        for name in [name for name, kind in axes.kinds.items() if kind == agreement.kind]:
            meeting = [torch.cat(joint) for joint in axes.meeting(name, agreement)]
            parts = gcd(*map(len, meeting))
            for units in meeting:
                ties.tie(units.view(parts, -1), meeting[0].view(parts, -1)[:, :1], "")


def numbers(found: Followed, choices: Choices) -> dict[tuple[str, str], Tensor]:
    """(module, attribute) -> the ids of the channels whose number it holds, of the attributes chosen."""
    axes = found.axes
    made: dict[tuple[str, str], Tensor] = {}
    for name, kind in axes.kinds.items():
        for (other, path), counted in choices.numbers.items():
            if other == kind:
                held = _held(axes.options(name, counted.known_in), {path: counted.places})
                made |= {(name, path): ids for path, ids in held.items()}
    return made
