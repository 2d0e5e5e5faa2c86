"""`follow`: find the channel layout of a network by running it once on an example."""

from __future__ import annotations

import copy
import difflib
import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from slimlib.core.arguments import arguments
from slimlib.core.layout import Layout, Segment, axis_size
from slimlib.core.random_numbers import own_random_numbers
from slimlib.flow import caches
from slimlib.flow.example import refusal, smallest, telling, twice
from slimlib.flow.progress import Progress
from slimlib.flow.proof.check import Failure, Proof
from slimlib.flow.proof.followed import Followed
from slimlib.flow.proof.proposals import agree, numbers
from slimlib.flow.proof.repair import repair
from slimlib.flow.proof.subject import Subject, duplicate
from slimlib.flow.siblings import follow_siblings
from slimlib.flow.sizes import LooksAtNumbers
from slimlib.flow.solve import Conflict, Rounding, Solution, layout, number_axes
from slimlib.flow.steps import SEED, Choices, FlowError, Site, Step, first_line, is_inside, place_of
from slimlib.flow.ties import Ties
from slimlib.flow.trace import Trace, unchanged

ATTEMPTS = 60
MORE_VALUES = "more than 1 value per channel"  # is what BatchNorm expects in training


def follow(
    net: nn.Module,
    example: Any,
    *,
    keep: Sequence[str] = (),
    divisor: int = 8,
    divisors: Mapping[str, int] | None = None,
) -> Layout:
    """Find which channels of a network may slim, and where each of them passes.

    The network runs on a copy, once in eval and once in training mode; the module given is not touched.

    Args:
        net: any module.
        example: what the network is called with: one argument, a tuple of them, or a dict by name.
        keep: names of modules (also of containers) whose output channels stay full.
        divisor: channel numbers are multiples of it; a group takes a smaller one where it has fewer than two.
        divisors: name of a layer -> another divisor, of its output channels.

    Raises:
        FlowError: nothing slims, or an operation cannot be followed, or the network itself does not run on the
            example; the message names layer and operation.
        ValueError: `keep` names no module of the network, `divisors` no layer that makes channels, or layers that
            must agree have several.
    """
    args = arguments(net, example)
    kept, rounding = _kept_parameters(net, keep), Rounding(divisor, dict(divisors or {}))
    try:
        caches.empty(net, args)
        with Progress() as progress, _collecting_new_objects():
            search = Search(net, caches.tables(net, args), kept, rounding, progress)
            return _search(search, telling(search.copied, args))
    except FlowError:
        raise
    except Exception as error:
        places = getattr(error, "__notes__", [])
        hooked = _hook_into(net, args) if places else None
        told = None if hooked else refusal(net, args)
        if told is None and not hooked and MORE_VALUES not in (trained := refusal(net, args, training=True) or ""):
            told = trained or None
        if told is None and not places:
            raise
        mend = (
            f"a hook of '{hooked}' writes into the network it was made with, and not into its copies, which are run; "
            "return the value from forward, or make the hook use the module it is given"
            if hooked
            else "give a layout= of what slims together, or convert the parts of the network that can be followed"
        )
        raise FlowError(
            told or f"{places[-1]} cannot be followed: {type(error).__name__}: {first_line(error)}; {mend}"
        ) from error


def _hook_into(net: nn.Module, args: tuple[Any, ...]) -> str | None:
    """The first module with a hook that holds on to a network which runs, or to a list or dict of it."""
    own = {id(held) for module in net.modules() for held in (module, *vars(module).values())}
    for name, module in net.named_modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            held = [cell.cell_contents for cell in getattr(hook, "__closure__", None) or ()]
            if any(isinstance(x, nn.Module | dict | list) and id(x) in own for x in held):
                try:
                    with torch.no_grad(), own_random_numbers(SEED), unchanged(net):
                        net(*copy.deepcopy(args))
                except Exception:
                    return None
                return str(name)
    return None


@contextmanager
def _collecting_new_objects() -> Iterator[None]:
    """Garbage collection passes over what was there before: an import of torch alone leaves 170,000 objects."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _search(search: Search, args: tuple[Any, ...]) -> Layout:
    """What slims, as the smallest example that will do shows it."""
    small = smallest(search.copied, args)
    if small is not args:
        try:
            found = search.run(small)
        except Exception:  # a forward may ask for more in training; the given example decides
            found = None
        if found is not None and search.shows_nothing_new(found, args):
            return found.layout
        search = Search(search.net, search.tables, search.kept, search.rounding, search.progress)
    return search.run(args).layout


class Search:
    """Analyse, prove, and learn from what fails, until a layout holds.

    kept: names of parameters that stay full -> why.
    copied: a copy of the network; its parameters are shared when forward is known to leave them alone.
    """

    def __init__(
        self, net: nn.Module, tables: Sequence[str], kept: Mapping[str, str], rounding: Rounding, progress: Progress
    ) -> None:
        self.net, self.tables, self.kept, self.rounding, self.progress = net, tables, kept, rounding, progress
        self.place = ""  # the module at which the last attempt failed
        self.copied, self.choices = duplicate(net, tables), Choices()
        self._versions = [p._version for p in self.copied.parameters()]
        self.both_modes = True  # whether training runs other operations than eval, as far as is known

    def run(self, args: tuple[Any, ...]) -> Followed:
        """Find what slims, and prove it, on one example.

        Raises:
            FlowError: nothing slims.
        """
        try:
            return self._run(args)
        except FlowError:
            raise
        except Exception:  # with zeros for products a forward that depends on numbers may also fail
            if self.choices.numbers_matter:
                raise
        self.choices = Choices(numbers_matter=True)
        return self._run(args)

    def _run(self, args: tuple[Any, ...]) -> Followed:
        subject: Subject | None = None
        found: Followed | None = None
        for attempt in range(ATTEMPTS):
            self.progress.attempt = attempt + 1
            self.progress.tell(f"follows channels, after '{self.place}'" if attempt else "follows channels", 0.0)
            try:
                found = found or self.analyse(args, self.choices)
            except ValueError as error:
                if MORE_VALUES not in str(error):
                    raise
                args = twice(self.copied, args)
                continue
            if sites := found.ties.shared - self.choices.weighed:
                found = self._weigh(args, found, sites)
            if subject is None:
                self._share()
                subject = Subject(self.net, self.tables, self.copied, args)
            proof = Proof(subject, found, self.choices, self.progress.tell)
            failure = _prove(proof)
            if failure is None:
                return found
            self.place, told = failure.module, failure.reason
            before = replace(copy.deepcopy(self.choices), numbers={})
            alternatives = repair(self.net, proof, failure, self.choices)
            self.choices = alternatives[0]
            found = self._numbered(found) if replace(self.choices, numbers={}) == before else None
            if len(alternatives) > 1:
                self.choices = min(alternatives, key=lambda choices: self._left(args, choices))
        where = place_of(self.place, type(self.net.get_submodule(self.place)).__name__)
        raise FlowError(
            f"no layout of this {type(self.net).__name__} works in {ATTEMPTS} attempts, the last of which failed in "
            f"{where} ({told}); keep it full, or the modules around it, with keep=[names of modules]"
        )

    def _share(self) -> None:
        """Give up the copy of the parameters where the runs so far have not changed it."""
        if self._versions == [p._version for p in self.copied.parameters()]:
            for copied, own in zip(self.copied.parameters(), self.net.parameters(), strict=True):
                copied.data = own.data
            self._versions = []

    def analyse(self, args: tuple[Any, ...], choices: Choices) -> Followed:
        """Follow the channels through one run in eval and one in training mode, without proof."""
        ties = Ties()
        logs: dict[bool, list[Step]] = {}
        entered: dict[str, list[Tensor]] = {}
        for training in (False, True):
            if training and not self.both_modes:
                logs[True] = logs[False]
                continue
            trace = Trace(self.copied.train(training), ties, choices, self.net)
            with own_random_numbers(SEED):
                trace.follow(copy.deepcopy(args))
            ties.settle()
            logs[training] = trace.log
            entered |= trace.entered
        follow_siblings(self.net, ties)
        self._fix(ties, choices)
        agree(self.net, ties, logs, entered, choices)
        solution, laid_out = _solve(self.copied, ties, self.rounding)
        found = Followed(self.net, ties, logs, entered, solution, laid_out)
        if not found.layout.groups:
            raise FlowError(f"nothing slims in this {type(self.net).__name__}. {_reasons(found.layout)}")
        self.both_modes = found.training_differs
        contiguous = tuple(name for name in sorted(choices.copied) if name in found.layout.axes)
        found.layout = replace(found.layout, contiguous=contiguous)
        return self._numbered(found)

    def _numbered(self, found: Followed) -> Followed:
        """With the numbers that modules hold, as far as they are chosen."""
        known = found.ties.numbers
        known |= numbers(found, self.choices)
        for idle, model in found.ties.like.items():
            inside = {key: ids for key, ids in known.items() if is_inside(key[0], model)}
            known |= {(idle + module.removeprefix(model), path): ids for (module, path), ids in inside.items()}
        held = number_axes(found.ties, found.solution)
        for name, attribute in sorted(self.choices.sizes):
            if f"{name}.weight" in found.layout.axes:
                full: int = getattr(self.net.get_submodule(name), attribute)
                held.setdefault(name, {})[attribute] = (Segment(None, full),)
        found.layout = replace(found.layout, numbers=held)
        return found

    def shows_nothing_new(self, found: Followed, args: tuple[Any, ...]) -> bool:
        """Whether a run on another example says the same of the channels."""
        trace = Trace(self.copied.eval(), found.ties, self.choices, self.net)
        try:
            with own_random_numbers(SEED):
                trace.follow(copy.deepcopy(args))
        except LooksAtNumbers:
            return False
        found.ties.settle()
        same = [step.moment for step in trace.log if not step.copies] == found.moments(False)
        return same and Solution(found.ties).groups == found.solution.groups

    def _fix(self, ties: Ties, choices: Choices) -> None:
        """What stays full whatever operations do."""
        for (name, dim), ids in ties.atoms.items():
            if name in self.kept and ((name, dim) in ties.producers or dim is None):
                ties.fix(ids, self.kept[name])
            for module, why in choices.modules.items():
                if is_inside(name, module):
                    ties.fix(ids, why)
        for name, compiled in self.net.named_modules():
            if isinstance(compiled, torch.jit.ScriptModule):
                ties.blocked[name] = "was compiled by torch.jit"
                ties.met.update(f"{name}.{parameter}" for parameter, _ in compiled.named_parameters())

    def _weigh(self, args: tuple[Any, ...], found: Followed, sites: set[Site]) -> Followed:
        """What is left if whole heads slim where one weight acts on each of them, or else each head: the less."""
        self.choices.weighed |= sites
        whole = replace(copy.deepcopy(self.choices), whole=self.choices.whole | sites)
        try:
            other = self.analyse(args, whole)
        except FlowError:
            return found
        if self._left_of(other.layout) >= self._left_of(found.layout):
            return found
        self.choices = whole
        return other

    def _left(self, args: tuple[Any, ...], choices: Choices) -> float:
        """How many parameters are left at half of each group's units, as far as an analysis can tell."""
        try:
            return self._left_of(self.analyse(args, choices).layout)
        except FlowError:
            return torch.inf

    def _left_of(self, layout: Layout) -> float:
        half = [(units + 1) // 2 for units in layout.full]
        left = 0.0
        for name, parameter in self.net.named_parameters():
            axes = layout.axes.get(name, {})
            left += parameter.numel() * prod(axis_size(axis, half) / parameter.shape[dim] for dim, axis in axes.items())
        return left


def _solve(net: nn.Module, ties: Ties, rounding: Rounding) -> tuple[Solution, Layout]:
    """What the ties say, and what stays besides, since parameters are cut along their axes alone."""
    while True:
        solution = Solution(ties)
        try:
            return solution, layout(net, ties, solution, rounding)
        except Conflict as conflict:
            ties.fix(conflict.ids, conflict.why)


def _reasons(layout: Layout) -> str:
    """Why layers stay full, of the first three."""
    kept = {**layout.kept, **dict.fromkeys(layout.idle, "never ran")}
    told = [f"'{name}': {why}" for name, why in list(kept.items())[:3]]
    return "; ".join(told) or "no layer of it has weights that make channels"


def _prove(proof: Proof) -> Failure | None:
    try:
        proof.run()
    except Failure as failure:
        return failure
    return None


def _kept_parameters(net: nn.Module, keep: Sequence[str]) -> dict[str, str]:
    """Name of every parameter in the modules named, or in a norm that no width but the full one can have -> why."""
    modules = [name for name, _ in net.named_modules() if name]
    kept: dict[str, str] = {}
    for wanted in keep:
        if wanted not in modules:
            near = difflib.get_close_matches(wanted, modules, n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ValueError(f"keep={wanted!r} names no module of this {type(net).__name__}{hint}")
        for name, _ in net.named_parameters():
            if is_inside(name, wanted):
                kept[name] = f"kept by keep={wanted!r}"
    for name, module in net.named_modules():
        if isinstance(module, _InstanceNorm) and module.track_running_stats:
            why = "keeps running statistics, those of one width; build it with track_running_stats=False"
            kept |= {f"{name}.{own}".lstrip("."): why for own in (*module._parameters, *module._buffers)}
    return kept
