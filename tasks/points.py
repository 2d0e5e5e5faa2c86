"""Operating points: what a row of a table is about, and what was measured at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any, Literal, Protocol, runtime_checkable

from torch import nn

import slimlib as slim
from slimlib.core.width import Width, WidthPlan

Kind = Literal["width", "plan", "per-input"]
Scores = dict[str, dict[str, float]]
"""Evaluation set -> metric name -> value."""

Series = dict[str, dict[str, list[Any]]]
"""Evaluation set -> metric name -> several values."""


@dataclass(frozen=True)
class Spent:
    """What an input costs on average.

    Attributes:
        macs: multiply-adds; params: of the parameters in use.
        milliseconds: where it was timed.
        shares: name of a width -> share of the inputs that ran at it, where each input has a width of its own.
        at_batch: size of a batch -> milliseconds of an input in it.
    """

    macs: float
    params: int
    milliseconds: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    at_batch: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class PerInput(Protocol):
    """A rule that chooses a width for each input, such as a cascade or a gate, and counts what it spends."""

    widths: Sequence[Width]
    """Those that it chooses among."""

    def __call__(self, net: nn.Module, *inputs: Any) -> Any:
        """The outputs of `net` for a batch, each input computed at a width of its own."""
        ...

    def spent(self, net: nn.Module, example: Any) -> Spent:
        """What the inputs since the last call have cost; `example`: one input, as `slimlib.cost` takes it."""
        ...


@runtime_checkable
class KnowsTargets(Protocol):
    """A rule that is told the targets of a batch before it computes it: an oracle."""

    targets: Any


@dataclass(frozen=True)
class OperatingPoint:
    """A width, a plan, or a rule that chooses a width for each input.

    Attributes:
        name: in tables and records.
        what: which it is; None: the network as it is, of one width alone.
    """

    name: str
    what: Width | PerInput | None

    @classmethod
    def of_width(cls, width: float) -> OperatingPoint:
        """A width is named by its number."""
        return cls(name_of_width(width), float(width))

    @property
    def kind(self) -> Kind:
        """What kind of operating point it is."""
        if isinstance(self.what, PerInput):
            return "per-input"
        return "plan" if isinstance(self.what, WidthPlan) else "width"

    @property
    def label(self) -> str:
        """As messages and captions show it: `width 0.25`, or the name of a plan or rule."""
        return label_of(self.name, self.kind)

    @property
    def widths(self) -> list[Width]:
        """The widths and plans that it computes at, which need BatchNorm statistics."""
        if isinstance(self.what, PerInput):
            return list(self.what.widths)
        return [] if self.what is None else [self.what]

    def run(self, net: nn.Module, *inputs: Any) -> Any:
        """The outputs of a network at this point; it is left at the width, or at any of those that a rule chose."""
        if isinstance(self.what, PerInput):
            return self.what(net, *inputs)
        if self.what is not None:
            slim.set_width(net, self.what)
        return net(*inputs)

    def spent(self, net: nn.Module, example: Any) -> Spent:
        """What an input costs: counted, or, of a rule that chooses, on average of those that it has chosen for."""
        if isinstance(self.what, PerInput):
            return self.what.spent(net, example)
        cost = slim.cost(net, example, 1.0 if self.what is None else self.what)
        return Spent(float(cost.macs), cost.params)


AS_IT_IS = OperatingPoint("1", None)
"""The only point of an ordinary network."""


@contextmanager
def runs_at(net: nn.Module, points: Sequence[OperatingPoint]) -> Iterator[list[Callable[..., Any]]]:
    """Within the block, what computes the outputs of a network at each of the points; then its width is as before."""
    with slim.at_width(net, slim.current_width(net)) if any(point.widths for point in points) else nullcontext():
        yield [partial(point.run, net) for point in points]


@dataclass(frozen=True, kw_only=True)
class PointResult(Spent):
    """What was measured at an operating point: the row of a record.

    Attributes:
        point: its name; `width` and `channels`: what it is, where it is a width or a plan.
        samples: what a metric is the mean of, where that is known: the return of each episode.
        curve: [steps trained, value] of a metric at some moments of the training.
        found: how a plan was found: `held_out_loss`, and `evaluations`, the plans that the search has scored.
    """

    point: str
    kind: Kind
    width: float | None = None
    channels: tuple[int, ...] | None = None
    metrics: Scores
    samples: Series = field(default_factory=dict)
    curve: Series = field(default_factory=dict)
    found: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """As messages show it."""
        return label_of(self.point, self.kind)


def result_at(
    point: OperatingPoint, spent: Spent, metrics: Scores, *, samples: Series | None = None, curve: Series | None = None
) -> PointResult:
    """The result of an operating point."""
    width = point.what if isinstance(point.what, float) else None
    channels = point.what.channels if isinstance(point.what, WidthPlan) else None
    return PointResult(
        **vars(spent),
        point=point.name,
        kind=point.kind,
        width=width,
        channels=channels,
        metrics=metrics,
        samples=samples or {},
        curve=curve or {},
    )


def mean_at(point: OperatingPoint, results: Sequence[PointResult]) -> PointResult:
    """The mean over several points that stand for one."""
    metrics = {
        name: {metric: fmean(each.metrics[name][metric] for each in results) for metric in values}
        for name, values in results[0].metrics.items()
    }
    spent = Spent(fmean(each.macs for each in results), round(fmean(each.params for each in results)))
    return result_at(point, spent, metrics)


def name_of_width(width: float) -> str:
    """A width as tables and records show it: 0.25, 1."""
    short = f"{width:g}"
    return short if float(short) == width else repr(float(width))


def label_of(name: str, kind: str) -> str:
    """An operating point in a sentence: `width 0.25`, or the name of a plan or rule."""
    return f"width {name}" if kind == "width" else name


def by_cost(result: PointResult) -> tuple[float, float, str]:
    """What the rows of a record are sorted by, cheap ones first."""
    return result.macs, result.width or 0.0, result.point
