"""The proof of a layout: the really sliced network runs as the layout says, and its numbers are right."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn

from slimlib.core.layout import axis_size
from slimlib.core.numbers import held_numbers
from slimlib.core.setting import set_width
from slimlib.core.swapping import Gathers, gathered
from slimlib.core.tolerance import Tolerance, tell
from slimlib.core.width import Width, WidthPlan
from slimlib.flow.ids import WeightRef
from slimlib.flow.proof.followed import Followed
from slimlib.flow.proof.known_ties import KnownTies, Mixture, active_ties
from slimlib.flow.proof.replay import (
    Beyond,
    Masked,
    Misfit,
    Record,
    Replay,
    Sliced,
    active_positions,
    by_moment,
    copies,
    select,
    sums,
)
from slimlib.flow.proof.subject import Copy, Subject
from slimlib.flow.sizes import LooksAtNumbers
from slimlib.flow.steps import Choices, FlowError, Step, first_line, is_inside

WIDTHS = (0.25, 0.5, 0.8)
SHARES = (0.5, 0.75, 0.34)  # of groups in turn
FURTHER = ((0.75, 0.25), (0.25, 0.25, 0.75, 0.75))
"""Groups that must agree may do so by chance in one plan; in these they are further apart, rounded as widths are."""
OTHER_NUMBERS = "gives other numbers when fewer channels are active"
END = sys.maxsize  # the progress of a run that does not fail
AHEAD = 100  # operations beyond a failure, after which a trial has passed


Held: TypeAlias = Mapping[str, Mapping[str, Tensor]]  # module -> {attribute: ids of the channels whose number it holds}


class Failure(Exception):
    """An attempt to run the sliced network failed at `step`, an operation, or else in the code of `module`.

    `following`: the operation that the full network runs there, `preceding`: the one that ran last; `position`: how
    many ran before, END where all did, and the numbers are wrong.
    """

    training: bool
    width: Width
    preceding: Step | None = None

    def __init__(self, reason: str, following: Step | None, at_step: bool, module: str, position: int) -> None:
        super().__init__(reason)
        self.reason, self.module, self.position = reason, module, position
        self.following, self.step = following, following if at_step else None


class Proof:
    """Two copies of a network, full and slimmable, that are run side by side."""

    def __init__(self, subject: Subject, found: Followed, choices: Choices, tell: Callable[[str, float], None]) -> None:
        """`tell` is told what is being done, and the share of it that is done."""
        self.subject, self.found, self.choices, self.tell = subject, found, choices, tell
        self.slim, self._slim_exact = subject.quick.slimmed(found.layout), None
        self._gathered: dict[int, tuple[tuple[int, ...], list[dict[str, Tensor]]]] = {}  # at the channels set last
        self._gathering: dict[int, list[Any]] = {}  # the modules that gather, of each of the two networks
        self._ties: dict[tuple[int, ...], KnownTies] = {}
        full = subject.quick.net
        self.shapes = {name: t.shape for name, t in [*full.named_parameters(), *full.named_buffers()]}

    def run(self) -> None:
        """Run the sliced network at several widths, and compare its numbers at two of them.

        Raises:
            Failure: the sliced network does not run, or otherwise than the layout says, or its numbers are wrong.
        """
        staggered, found = self._staggered(SHARES), self.found
        checks: list[tuple[Callable[[bool, Width], None], bool, Width]] = [(self._compare, False, staggered)]
        checks += [(self._runs, False, width) for width in WIDTHS[1:]]
        checks += [(self._runs, False, self._rounded(shares)) for shares in FURTHER]
        checks.append((self._compare, False, WIDTHS[0]))
        if found.training_differs:
            if found.moments(False) != found.moments(True):
                checks.append((self._runs, True, WIDTHS[1]))
            checks.append((self._compare, True, staggered))
        for done, (check, training, width) in enumerate(checks, 1):
            self.tell("compares with the full network", done / (len(checks) + 1))
            check(training, width)

    def _runs(self, training: bool, width: Width) -> None:
        """Run the sliced network."""
        try:
            self._attempt(self._sliced(self.slim, training, width), self.subject.quick)
        except Failure as failure:
            if not self._takes_another_way(failure):
                raise

    def _takes_another_way(self, failure: Failure) -> bool:
        """Whether forward runs other operations for a group of one unit, and its numbers are right all the same.

        It also may where it looks at numbers, as what makes key points of heat maps does.
        """
        full = self.found.layout.full
        one = any(count == 1 < units for count, units in zip(self.channels(failure.width), full, strict=True))
        if not (one or self.choices.numbers_matter) or not isinstance(failure.__cause__, Misfit | Mixture):
            return False
        sliced = self._sliced(self._exact(), failure.training, failure.width)
        sliced.expected, self._ties = {}, {}  # of which the run has its own, that allows all
        sliced.known.allows_all = True
        try:
            got = self._attempt(sliced, self.subject.exact)
        except Failure:
            return False
        expected = self._masked(failure.training, failure.width)
        return len(got) == len(expected) and all(map(self._close, got, expected))

    def progress(self, failure: Failure, width: Width, held: Held, left: str = "") -> tuple[float, str]:
        """How many operations run as the layout says, where modules hold these numbers, and what stops the run then.

        END: many beyond the failure, or all until the module `left` has been left. Half of one more, where what failed
        in a module goes on to fail in a module in it.
        """
        sliced, stopped = self._trial(self.slim, self.subject.quick, failure, width, held)
        module = sliced.context.module
        beyond = stopped is None or (not is_inside(module, left) and len(sliced.log) > failure.position)
        deeper = module != failure.module and is_inside(module, failure.module)
        return END if beyond else len(sliced.log) + deeper / 2, stopped or ""

    def corrects(self, failure: Failure, held: Held) -> bool:
        """Whether an operation that gave other numbers gives the right ones, where modules hold these."""
        moments = self.found.moments(failure.training)
        if failure.step is None or failure.step.moment not in moments:
            return False
        place = moments.index(failure.step.moment)
        there = Failure(failure.reason, failure.step, True, failure.module, place)
        there.training = failure.training
        if self.progress(there, failure.width, held)[0] <= place:
            return False
        try:
            return self.agrees(there, failure.width, held, ahead=1)
        except Failure:
            return False

    def agrees(self, failure: Failure, width: Width, held: Held, ahead: int = AHEAD) -> bool:
        """Whether what runs gives the numbers of the masked network, as far as sums of all results show.

        Raises:
            Failure: they differ already before the operation that failed.
        """
        channels, training = self.channels(width), failure.training
        key, limit = (training, channels), failure.position + ahead
        if self.found.sums.get(key, (0, {}))[0] < limit:
            of_active = partial(sums, self.found.solution.active(channels))
            self.found.sums[key] = limit, by_moment(self._masked(training, width, of_active, limit))
        theirs = self.found.sums[key][1]
        sliced, _ = self._trial(self._exact(), self.subject.exact, failure, width, held, partial(sums, None), ahead)
        for position, (step, results) in enumerate(zip(sliced.log, sliced.results, strict=False)):
            for ours, other in zip(results, () if step.copies else theirs.get(step.moment, ()), strict=False):
                if ours is not None and other is not None and not ours.alike(other, self.subject.exact.tolerance):
                    if position < failure.position:
                        raise self._other_numbers(step, training, width)
                    return False
        return True

    def _trial(
        self,
        slim: Any,
        copied: Copy,
        failure: Failure,
        width: Width,
        held: Held,
        record: Record | None = None,
        ahead: int = AHEAD,
    ) -> tuple[Sliced, str | None]:
        """Run the sliced network with these numbers in its modules; what stops it, None well beyond the failure."""
        sliced, channels = self._sliced(slim, failure.training, width, record), self.channels(width)
        sliced.limit = failure.position + ahead
        before: list[tuple[nn.Module, dict[str, Any]]] = []
        for name, numbers in held.items():
            module = slim.get_submodule(name)
            sizes = {path: axis_size(self.found.solution.axis(ids), channels) for path, ids in numbers.items()}
            swaps = held_numbers(module, sizes)
            before.append((module, {key: module.__dict__[key] for key in swaps}))
            module.__dict__.update(swaps)
        try:
            self._attempt(sliced, copied)
        except Beyond:
            pass
        except (Failure, FlowError) as error:
            return sliced, str(error)
        finally:
            for module, own in before:
                module.__dict__.update(own)
        return sliced, None

    def _staggered(self, shares: Sequence[float]) -> WidthPlan:
        """A width that differs from group to group."""
        groups = enumerate(self.found.layout.groups)
        return WidthPlan([max(1, round(group.units * shares[i % len(shares)])) for i, group in groups])

    def _rounded(self, shares: Sequence[float]) -> WidthPlan:
        """The same, in multiples of divisors: some operations take no odd numbers."""
        steps = [group.divisor for group in self.found.layout.groups]
        counts = zip(self._staggered(shares).channels, steps, self.found.layout.full, strict=True)
        return WidthPlan([min(max(1, round(count / step)) * step, full) for count, step, full in counts])

    def _compare(self, training: bool, width: Width) -> None:
        """Run the sliced network, and compare its numbers."""
        try:
            right = self._is_right(training, width)
        except Failure as failure:
            if self._takes_another_way(failure):
                return
            self._runs(training, width)  # raises, unless it is double precision alone that the network cannot take
            self._compare_in_float32()
            right = self._is_right(training, width)
        if not right:
            raise self._locate(training, width)

    def _is_right(self, training: bool, width: Width) -> bool:
        """Whether the sliced network gives the numbers of the masked one."""
        single = self.subject.casts
        got = self._attempt(self._sliced(self._exact(), training, width), self.subject.exact)
        expected: list[Tensor] = self._masked(training, width)
        if not single and any(x.isnan().any() for x in expected):  # no proof, where float32 may give numbers
            self._compare_in_float32()
        if self.subject.casts != single:
            return self._is_right(training, width)
        if not tell(expected) and not tell(self._masked(training, 1.0)):
            raise FlowError(
                "the network returns no finite number for the example, so that nothing can be compared; give an "
                "example of the numbers that it is trained on, and parameters that have numbers"
            )
        return len(got) == len(expected) and all(map(self._close, got, expected))

    def _compare_in_float32(self) -> None:
        self.subject.compare_in_float32()
        self._slim_exact, self._gathered, self._gathering = None, {}, {}

    def _exact(self) -> Any:
        """The slimmable network whose numbers are compared."""
        if self._slim_exact is None:
            self._slim_exact = self.subject.exact.slimmed(self.found.layout)
        return self._slim_exact

    def _sliced(self, slim: Any, training: bool, width: Width, record: Record | None = None) -> Sliced:
        slim.train(training)
        set_width(slim, width)
        found, channels = self.found, self.channels(width)
        self._gather_now(slim, channels)
        if channels not in self._ties:
            slims = found.solution.slims
            self._ties = {channels: active_ties(found.ties, found.units, found.layout, channels, self.shapes, slims)}
        ties = self._ties[channels]
        active = found.solution.active(channels)
        sliced = Sliced(
            slim, ties, self.choices, self.subject.origin, found.expected[training], active, found.scales, record
        )
        sliced.at = training, width
        sliced.computes |= slim is self._slim_exact
        return sliced

    def _gather_now(self, slim: Any, channels: tuple[int, ...]) -> None:
        """Do now what `Gathers` does in each forward, so that the gathered tensors can be followed."""
        if id(slim) not in self._gathering:
            self._gathering[id(slim)] = [module for module in slim.modules() if isinstance(module, Gathers)]
        modules = self._gathering[id(slim)]
        if self._gathered.get(id(slim), ((), []))[0] != channels:
            self._gathered.pop(id(slim), None)  # before more memory is taken
            made = [{name: gathered(x.detach(), picks) for name, x, picks in module.to_gather} for module in modules]
            self._gathered[id(slim)] = channels, made
        for module, tensors in zip(modules, self._gathered[id(slim)][1], strict=True):
            module.__dict__.update(tensors, to_gather=())

    def _masked(self, training: bool, width: Width, record: Record | None = None, limit: int = END) -> Any:
        active = self.found.solution.active(self.channels(width))
        known = KnownTies(self.found.ties, self.found.units, self.found.solution.slims)
        copied = self.subject.exact
        masked = Masked(
            copied.net.train(training), known, self.choices, self.subject.origin, active, self.found.scales, record
        )
        masked.limit, masked.at = limit, (training, width)
        try:
            outputs = masked.follow(copy.deepcopy(copied.args))
        except Beyond:
            return masked
        except FlowError:
            raise
        except Mixture as error:
            step = self.found.expected[training].get(masked.context.moment)
            raise self._failure(masked, error, step, at_step=True, position=END) from error
        except Exception:
            if self.subject.casts:
                raise
            self._compare_in_float32()
            return self._masked(training, width, record, limit)
        return outputs if record is None else masked

    def channels(self, width: Width) -> tuple[int, ...]:
        """The active units of each group."""
        channels: tuple[int, ...] = self.slim.slim.channels_at(width)
        return channels

    def _attempt(self, sliced: Sliced, copied: Copy) -> list[Any]:
        """Run the sliced network; a fault of ours is no failure of the layout, and stays an error."""
        try:
            return sliced.follow(copy.deepcopy(copied.args))
        except Exception as error:
            told = isinstance(error, Misfit | Mixture)
            if isinstance(error, FlowError | Beyond | LooksAtNumbers) or (sliced.phase == "rule" and not told):
                raise
            at_step = told or sliced.phase == "operation"
            raise self._failure(sliced, error, sliced.step_of_full, at_step, len(sliced.log)) from error

    def _failure(self, run: Replay, error: Exception, step: Step | None, at_step: bool, position: int) -> Failure:
        failure = Failure(first_line(error), step, at_step, run.context.module, position)
        failure.training, failure.width = run.at
        failure.preceding = run.log[-1] if run.log else None
        return failure

    def _close(self, a: Tensor, b: Tensor) -> bool:
        return not Tolerance(0.0, self.subject.exact.tolerance).differ(b, a)

    def _locate(self, training: bool, width: Width) -> Failure:
        """The first operation whose result is not that of the masked network."""
        masked = self._masked(training, width, copies)
        sliced = self._sliced(self._exact(), training, width, copies)
        self._attempt(sliced, self.subject.exact)
        theirs = {step.moment: (step, results) for step, results in zip(masked.log, masked.results, strict=True)}
        for own, ours in zip(sliced.log, sliced.results, strict=True):
            step, expected = theirs.get(own.moment, (own, []))
            if own.copies or not any(map(self.found.slims, [*step.inputs, *step.weights])):
                continue
            for ids, a, b in zip(step.outputs, ours, expected, strict=False):
                if isinstance(ids, WeightRef) or not isinstance(a, Tensor) or not isinstance(b, Tensor):
                    continue
                picks = [] if ids is None else active_positions(ids, masked.active)
                b = b if picks is None else select(b, picks)
                if picks is not None and (ids is not None or a.shape == b.shape) and not self._close(a, b):
                    return self._other_numbers(step, training, width)
        return self._other_numbers(None, training, width)

    def _other_numbers(self, own: Step | None, training: bool, width: Width) -> Failure:
        """The failure of an operation that ran."""
        step = own and self.found.expected[training].get(own.moment, own)
        failure = Failure(OTHER_NUMBERS, step, step is not None, step.module if step else "", END)
        failure.training, failure.width = training, width
        return failure
