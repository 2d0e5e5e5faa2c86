"""`fit_cascade`: thresholds for a mean cost or for a loss of accuracy, from held-out samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slimlib.core.arguments import arguments, check_batches
from slimlib.core.setting import at_width
from slimlib.core.structures import tensors
from slimlib.core.width import Width, check_is, is_number, label
from slimlib.dynamic.cascade import Cascade, CascadePoint, check_widths
from slimlib.dynamic.confidence import Confidence, check_confidence
from slimlib.dynamic.outcomes import Corrupt, Outcomes, Score, is_right, macs_at, outcomes_of, pairs, with_noise
from slimlib.dynamic.thresholds import Simulation
from slimlib.search.budgets import Budget, read_budget
from slimlib.serving.profiling import profile

BINS = 15


@dataclass(frozen=True)
class AccuracyLoss:
    """A budget: how much of the widest width's mean score may be lost; 0.003 is 0.3 points of accuracy.

    Raises:
        ValueError: it is negative, or no number.
    """

    amount: float

    def __post_init__(self) -> None:
        if not is_number(self.amount) or not 0 <= self.amount < float("inf"):
            raise ValueError(f"AccuracyLoss({self.amount!r}) must be a number from 0, such as 0.003")


@dataclass(frozen=True)
class WidthOutcome:
    """A width alone, on the samples that a cascade was fitted on.

    Attributes:
        cost: of a sample, as a share of the widest; score: mean, such as the accuracy.
        confidence: mean. calibration_error: how far the largest probability is from the accuracy, on average over bins
            of equally many samples (expected calibration error; Guo et al. 2017); None without scores of classes.
    """

    width: Width
    cost: float
    score: float
    confidence: float
    calibration_error: float | None


@dataclass(frozen=True)
class Performance:
    """Each width, and the cascade, on some samples."""

    widths: tuple[WidthOutcome, ...]
    cascade: CascadePoint


@dataclass(frozen=True)
class CascadeReport:
    """What a cascade was fitted on, and what it does there and on a corrupted copy. Prints as a table.

    Attributes:
        samples: that it was fitted on.
        unit: of the costs, "macs" or "ms"; widest: what the widest width costs in it.
        held_out: on these samples; corrupted: on their changed copy, with the same thresholds.
    """

    samples: int
    unit: str
    widest: float
    held_out: Performance
    corrupted: Performance

    def __str__(self) -> str:
        lines = [f"fitted on {self.samples:,} samples; the widest costs {self.widest:,.6g} {self.unit}"]
        for title, seen in (("as they are", self.held_out), ("corrupted", self.corrupted)):
            lines.append(f"{title:>12}  {'cost':>6}  {'score':>7}  {'confidence':>10}  {'calibration error':>17}")
            for row in seen.widths:
                error = "" if row.calibration_error is None else f"{row.calibration_error:.4f}"
                numbers = f"{row.cost:6.3f}  {row.score:7.4f}  {row.confidence:10.4f}  {error:>17}"
                lines.append(f"{label(row.width):>12}  {numbers}")
            point = seen.cascade
            lines.append(f"{'cascade':>12}  {point.cost:6.3f}  {point.score:7.4f}  stops: {_shares(seen)}")
        return "\n".join(lines)


def _shares(seen: Performance) -> str:
    return ", ".join(
        f"{100 * s:.0f} % at {label(w.width)}" for s, w in zip(seen.cascade.shares, seen.widths, strict=True)
    )


class FittedCascade(Cascade):
    """A cascade whose thresholds `fit_cascade` found; `report` says on what, and how good it is there."""

    report: CascadeReport


def fit_cascade(
    net: nn.Module,
    widths: Sequence[Width],
    batches: Iterable[Any],
    targets: Any,
    *,
    budget: Any,
    confidence: Confidence = "max_probability",
    score: Score | None = None,
    corrupt: Corrupt = with_noise,
) -> FittedCascade:
    """Find the thresholds of a cascade on held-out training data.

    Every width runs on every sample once; then thresholds are searched without the network. On samples that it was
    trained on, the network looks more certain than it is; evaluation samples must not choose anything.

    Args:
        net: a slimmable or frozen network, calibrated at the widths.
        widths: to choose from, narrow to wide; thresholds of inf leave some of them out.
        batches: inputs [N, ...] (or tuples of the arguments of forward).
        targets: one tensor for all samples in a row, or one for each batch.
        budget: mean cost of a sample: 0.6 (of the widest width's multiply-adds), "300M macs" or "5 ms" (measured here,
            on the first batch); or `AccuracyLoss(0.003)`, what may be lost of the widest width's accuracy.
        confidence: as of `Cascade`.
        score: a function of output and target that returns how good each sample is, [N]; 1 where the likeliest class
            is the target, else 0, by default.
        corrupt: a function of the inputs that changes them, for the report; noise by default.

    Returns:
        The best cascade within the budget. Its `quality` moves along the best cascades of all costs, and
        `print(cascade.report)` shows calibration, and what happens on the corrupted copy.

    Raises:
        ValueError: the budget cannot be met or is none; batches and targets do not fit; as `Cascade`.
        UncalibratedWidth: a width has no BatchNorm statistics.
    """
    limit = budget if isinstance(budget, AccuracyLoss) else read_budget(budget)
    return CascadeFitter(net, widths, batches, targets, confidence=confidence, score=score, corrupt=corrupt)(limit)


class CascadeFitter:
    """Runs every width on every sample once, then finds the cascade of any budget; arguments as of `fit_cascade`."""

    def __init__(
        self,
        net: nn.Module,
        widths: Sequence[Width],
        batches: Iterable[Any],
        targets: Any,
        *,
        confidence: Confidence = "max_probability",
        score: Score | None = None,
        corrupt: Corrupt = with_noise,
    ) -> None:
        check_widths(net, widths)
        check_confidence(confidence)
        check_batches("batches", batches)
        check_is(Iterable, "a tensor, or a list of one for each batch", targets=targets)
        check_is(Callable | None, "a function of output and target", score=score)
        check_is(Callable, "a function of the inputs", corrupt=corrupt)
        given = _Remembered(pairs(batches, targets))
        changes: list[Corrupt] = [lambda x: x, corrupt]
        self._plain, self._changed = outcomes_of(net, widths, given, confidence, score or is_right, changes)
        self._net, self._widths, self._confidence = net, widths, confidence
        self._args = arguments(net, given.first)
        self._found: dict[str, tuple[float, Simulation, list[CascadePoint]]] = {}

    def __call__(self, limit: Budget | AccuracyLoss) -> FittedCascade:
        """The best cascade within a budget."""
        unit = "ms" if isinstance(limit, Budget) and limit.unit == "ms" else "macs"
        if unit not in self._found:
            self._found[unit] = self._simulated(unit)
        widest, simulation, path = self._found[unit]
        chosen = _chosen(path, limit, simulation, widest)
        cascade = FittedCascade(self._net, self._widths, chosen.thresholds, confidence=self._confidence, path=path)
        cascade.report = CascadeReport(
            samples=self._plain.score.shape[1],
            unit=unit,
            widest=widest,
            held_out=_performance(simulation, self._widths, chosen.thresholds),
            corrupted=_performance(Simulation(self._changed, simulation.costs), self._widths, chosen.thresholds),
        )
        return cascade

    def _simulated(self, unit: str) -> tuple[float, Simulation, list[CascadePoint]]:
        """What the widest width costs, and the best cascades of all costs."""
        costs = _costs(self._net, self._widths, self._args, unit)
        simulation = Simulation(self._plain, tuple(cost / costs[-1] for cost in costs))
        return costs[-1], simulation, simulation.path()


class _Remembered:
    """Pairs that are read once, of which the first inputs stay."""

    first: Any = None

    def __init__(self, given: Iterable[tuple[Any, Any]]) -> None:
        self._given = given

    def __iter__(self) -> Any:
        for inputs, target in self._given:
            self.first = inputs if self.first is None else self.first
            yield inputs, target
        if self.first is None:
            raise ValueError("fit_cascade got no batch; give held-out inputs, and their targets")


def _costs(net: nn.Module, widths: Sequence[Width], args: tuple[Any, ...], unit: str) -> list[float]:
    """Of a sample at each width."""
    if unit == "macs":
        return [float(macs_at(net, args, width)) for width in widths]
    with at_width(net, widths[0]):
        measured = profile(net, args, widths, rounds=10, warmup=2)
    return [measured[width].milliseconds / len(tensors(args)[0]) for width in widths]


def _chosen(
    path: Sequence[CascadePoint], limit: Budget | AccuracyLoss, simulation: Simulation, widest: float
) -> CascadePoint:
    """The best point of the path that keeps a budget."""
    if isinstance(limit, AccuracyLoss):
        least = float(simulation.outcomes.score[-1].mean()) - limit.amount
        return next(point for point in path if point.score is not None and point.score >= least - 1e-12)
    if limit.unit == "params":
        raise ValueError("a cascade uses the parameters of all its widths; give a budget of multiply-adds or 'ms'")
    most = limit.amount if limit.share else limit.amount / widest
    within = [point for point in path if point.cost is not None and point.cost <= most + 1e-12]
    if not within:
        raise ValueError(
            f"a budget of {limit} is less than the narrowest width costs for every sample, "
            f"{path[0].cost:.3g} of the widest"
        )
    return within[-1]


def _performance(simulation: Simulation, widths: Sequence[Width], thresholds: Sequence[float]) -> Performance:
    outcomes = simulation.outcomes
    rows = [
        WidthOutcome(
            width,
            simulation.costs[place],
            float(outcomes.score[place].mean()),
            float(outcomes.confidence[place].mean()),
            _calibration_error(outcomes, place),
        )
        for place, width in enumerate(widths)
    ]
    return Performance(tuple(rows), simulation.point(thresholds))


def _calibration_error(outcomes: Outcomes, place: int) -> float | None:
    if outcomes.probability is None:
        return None
    probability, order = outcomes.probability[place].sort(stable=True)
    gaps = [
        (sure.mean() - right.mean()).abs() * len(sure)
        for sure, right in zip(probability.chunk(BINS), outcomes.score[place][order].chunk(BINS), strict=True)
    ]
    return float(torch.stack(gaps).sum() / len(probability))
