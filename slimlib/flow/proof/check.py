"""The proof of a layout: the really sliced network runs as the layout says, and its numbers are right."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from slimlib.core.apply import apply_layout
from slimlib.core.layout import Layout, axis_size
from slimlib.core.numbers import held_numbers
from slimlib.core.setting import set_width
from slimlib.core.structures import map_tensors
from slimlib.core.swapping import Gathers, gathered
from slimlib.core.width import Width, WidthPlan
from slimlib.flow.ids import Shadow, WeightRef, distinct, tracked
from slimlib.flow.proof.known_ties import KnownTies, Mixture, active_atoms, active_ids
from slimlib.flow.proof.replay import Masked, Misfit, Record, Replay, Sliced, active_positions, select
from slimlib.flow.solve import Solution
from slimlib.flow.steps import Choices, FlowError, Moment, Step, first_line
from slimlib.flow.ties import Ties

WIDTHS = (0.25, 0.5, 0.8)
END = sys.maxsize  # the progress of a run that does not fail
AHEAD = 300  # operations beyond a failure, after which a trial has passed


@dataclass
class Followed:
    """What one analysis found: the ties, the steps in eval and in training, what entered each module, the layout."""

    ties: Ties
    logs: Mapping[bool, Sequence[Step]]
    entered: Mapping[str, Sequence[Tensor]]
    solution: Solution
    layout: Layout

    def slims(self, shadow: Shadow | None) -> bool:
        """Whether any channel of a tensor slims."""
        if isinstance(shadow, WeightRef):
            return any(self.slims(axis.ids) for axis in shadow.axes)
        return shadow is not None and bool(self.solution.slims[distinct(shadow)].any())


Held: TypeAlias = Mapping[str, Mapping[str, Tensor]]  # module -> {attribute: ids of the channels whose number it holds}


class Failure(Exception):
    """An attempt to run the sliced network failed at `step`, an operation, or else in the code of `module`.

    `following`: the operation that the full network runs there; `position`: how many ran before, END where all did,
    and the numbers are wrong.
    """

    training: bool
    width: Width

    def __init__(self, reason: str, following: Step | None, at_step: bool, module: str, position: int) -> None:
        super().__init__(reason)
        self.reason, self.module, self.position = reason, module, position
        self.following, self.step = following, following if at_step else None


@dataclass
class Subject:
    """What a proof works on: the user's network, a copy of it that may be changed, and its arguments."""

    origin: nn.Module
    full: nn.Module
    args: tuple[Any, ...]
    tolerance: float


class Proof:
    """Two copies of a network, full and slimmable, that are run side by side."""

    def __init__(self, subject: Subject, found: Followed, choices: Choices) -> None:
        self.subject, self.found, self.choices = subject, found, choices
        self.full = full = subject.full
        self.slim = apply_layout(copy.deepcopy(full), found.layout, norm="shared")
        self.sums: dict[tuple[bool, tuple[int, ...]], dict[Moment, list[Any]]] = {}  # of results, masked
        self.shapes = {name: t.shape for name, t in [*full.named_parameters(), *full.named_buffers()]}

    def run(self) -> None:
        """Run the sliced network at several widths, then compare its numbers at two of them.

        Raises:
            Failure: the sliced network does not run, or otherwise than the layout says, or its numbers are wrong.
        """
        staggered = self._staggered()
        runs = [(False, width) for width in (staggered, *WIDTHS)] + [(True, WIDTHS[1]), (True, staggered)]
        outputs = {}
        for training, width in runs:
            try:
                outputs[training, width] = self._attempt(self._sliced(width, training))
            except Failure as failure:
                failure.training, failure.width = training, width
                raise
        for training, width in ((False, WIDTHS[0]), (False, staggered), (True, staggered)):
            self._compare(outputs[training, width], width, training)

    def progress(self, failure: Failure, width: Width, held: Held) -> int:
        """How many operations run as the layout says, where modules hold these numbers; END for some beyond it."""
        sliced, beyond = self._trial(failure, width, held)
        return END if beyond else len(sliced.log)

    def agrees(self, failure: Failure, width: Width, held: Held) -> bool:
        """Whether what runs gives the numbers of the masked network, as far as sums of all results show."""
        channels, training = self.channels(width), failure.training
        if (training, channels) not in self.sums:
            self.full.train(training)
            masked = self._masked(width, partial(_sums, active_ids(self.found.solution, channels)))
            self.sums[training, channels] = _by_moment(masked)
        theirs = self.sums[training, channels]
        sliced, _ = self._trial(failure, width, held, partial(_sums, None))
        return all(
            ours is None or other is None or ours.alike(other, self.subject.tolerance)
            for moment, results in _by_moment(sliced).items()
            for ours, other in zip(results, theirs.get(moment, ()), strict=False)
        )

    def _trial(self, failure: Failure, width: Width, held: Held, record: Record | None = None) -> tuple[Sliced, bool]:
        """Run the sliced network with these numbers in its modules; whether it gets well beyond the failure."""
        sliced, channels = self._sliced(width, failure.training, record), self.channels(width)
        sliced.limit = failure.position + AHEAD
        before: list[tuple[nn.Module, dict[str, Any]]] = []
        for name, numbers in held.items():
            module = self.slim.get_submodule(name)
            sizes = {path: axis_size(self.found.solution.axis(ids), channels) for path, ids in numbers.items()}
            swaps = held_numbers(module, sizes)
            before.append((module, {key: module.__dict__[key] for key in swaps}))
            module.__dict__.update(swaps)
        try:
            with torch.random.fork_rng():
                self._attempt(sliced)
        except (Failure, FlowError):
            return sliced, len(sliced.log) >= sliced.limit
        finally:
            for module, own in before:
                module.__dict__.update(own)
        return sliced, True

    def _staggered(self) -> WidthPlan:
        """A width that differs from group to group, so that no two groups agree by chance."""
        shares = (0.5, 0.75, 0.34)
        return WidthPlan([max(1, round(g.units * shares[i % 3])) for i, g in enumerate(self.found.layout.groups)])

    def _compare(self, got: Sequence[Any], width: Width, training: bool) -> None:
        self.full.train(training)
        for a, b in zip(got, self._masked(width), strict=True):
            if not self._close(a, b):
                raise self._locate(width, training)

    def _sliced(self, width: Width, training: bool, record: Record | None = None) -> Sliced:
        self.slim.train(training)
        set_width(self.slim, width)
        _gather_now(self.slim)
        found, channels = self.found, self.channels(width)
        ties = active_atoms(found.ties, found.layout, channels, self.shapes)
        active = active_ids(found.solution, channels)
        return Sliced(self.slim, ties, self.choices, self.subject.origin, found.logs[training], active, record)

    def _masked(self, width: Width, record: Record | None = None) -> Any:
        ties, active = self.found.ties, active_ids(self.found.solution, self.channels(width))
        masked = Masked(self.full, KnownTies(ties, ties.atoms), self.choices, self.subject.origin, active, record)
        outputs = masked.follow(copy.deepcopy(self.subject.args))
        return outputs if record is None else masked

    def channels(self, width: Width) -> tuple[int, ...]:
        """The active units of each group."""
        channels: tuple[int, ...] = self.slim.slim.channels_at(width)  # type: ignore[union-attr, operator]
        return channels

    def _attempt(self, sliced: Sliced) -> list[Any]:
        """Run the sliced network; a fault of ours is no failure of the layout, and stays an error."""
        try:
            return sliced.follow(copy.deepcopy(self.subject.args))
        except Exception as error:
            told = isinstance(error, Misfit | Mixture)
            if isinstance(error, FlowError) or (sliced.phase == "rule" and not told):
                raise
            at_step = told or sliced.phase == "operation"
            raise Failure(
                first_line(error), sliced.step_of_full, at_step, sliced.context.module, len(sliced.log)
            ) from error

    def _close(self, a: Tensor, b: Tensor) -> bool:
        if a.shape != b.shape:
            return False
        if not a.is_floating_point():
            return True
        scale = float(b.nan_to_num().abs().max()) if b.numel() else 0.0
        return torch.allclose(a, b, rtol=0, atol=self.subject.tolerance * (scale + 1e-30), equal_nan=True)

    def _locate(self, width: Width, training: bool) -> Failure:
        """The first operation whose result is not that of the masked network."""
        masked, sliced = self._masked(width, _copies), self._sliced(width, training, _copies)
        self._attempt(sliced)
        why = "gives other numbers when fewer channels are active"
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
                    return Failure(why, step, True, own.module, END)
        return Failure(why, None, False, "", END)


@dataclass(frozen=True)
class Sums:
    """The sum of a result and of its absolute values, to know it by."""

    shape: torch.Size
    sum: float
    size: float

    def alike(self, other: Sums, tolerance: float) -> bool:
        """Whether both may be sums of one result; of other shapes they cannot be compared."""
        return self.shape != other.shape or abs(self.sum - other.sum) <= 10 * tolerance * (self.size + other.size)


def _sums(active: Tensor | None, ids: Shadow | None, x: Any) -> Sums | None:
    """Of the active channels of a result of the masked network; of the whole, in the sliced one."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not isinstance(ids, Tensor) or not tracked(ids):
        return None
    picks = [] if active is None else active_positions(ids, active)
    if picks is None:
        return None
    part = select(x, picks).double().nan_to_num(0.0, 0.0, 0.0).clamp(-1e6, 1e6)  # masks have infinities
    return Sums(part.shape, float(part.sum()), float(part.abs().sum()))


def _copies(ids: Shadow | None, x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x


def _by_moment(run: Replay) -> dict[Moment, list[Any]]:
    return {step.moment: made for step, made in zip(run.log, run.results, strict=False) if not step.copies}


def _gather_now(net: nn.Module) -> None:
    """Do now what `Gathers` does in each forward, so that the gathered tensors can be followed."""
    for module in net.modules():
        if isinstance(module, Gathers):
            for name, source, picks in module.to_gather:
                module.__dict__[name] = gathered(source.detach(), picks)
            module.__dict__["to_gather"] = ()


def prepare(origin: nn.Module, copied: nn.Module, args: tuple[Any, ...]) -> Subject:
    """Make `copied`, a copy of the network `origin`, ready for proofs; in double precision where it can run so."""
    _perturb(copied)
    double = copy.deepcopy(copied).double().eval()
    wide = map_tensors(lambda x: x.double() if x.is_floating_point() else x, args)
    try:
        with torch.no_grad(), torch.random.fork_rng():
            double(*copy.deepcopy(wide))
    except (RuntimeError, TypeError):  # it casts to float32 by itself
        return Subject(origin, copied, args, tolerance=1e-3)
    return Subject(origin, double, wide, tolerance=1e-7)


def _perturb(net: nn.Module) -> None:
    """Move parameters off the zeros and ones of a fresh network, which would hide a fault."""
    generator = torch.Generator().manual_seed(1)
    for tensor in [*net.parameters(), *net.buffers()]:
        if tensor.is_floating_point() and tensor.layout is torch.strided:
            noise = torch.rand(tensor.shape, generator=generator) * 0.02
            tensor.data.add_(noise.to(tensor.device, tensor.dtype))
