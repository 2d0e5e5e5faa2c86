"""The records of one ablation side by side, as tables, figures and findings ask for them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.analysis.aggregates import CONFIDENCE, LEAST_SEEDS, RESAMPLES, Aggregate, interquartile_mean
from benchmarks.records.record import MetricInfo, Record, Row
from tasks.points import Spent, label_of

SPREAD_SEEDS = 3
"""With fewer seeds than these each is shown, and no mean."""

ALIKE = ("task", "ablation", "scale", "dataset", "protocol", "steps", "settings", "input", "eval_sets", "metrics")
"""What all records of one table have in common."""


@dataclass(frozen=True)
class Cell:
    """The values of one recipe at one operating point: {seed: value}, of the seeds that the table has."""

    values: dict[int, float]
    seeds: tuple[int, ...]

    @cached_property
    def complete(self) -> bool:
        """Whether no seed of the table is missing here."""
        return bool(self.values) and set(self.values) == set(self.seeds)

    @cached_property
    def mean(self) -> float | None:
        """None where a seed is missing: no mean is taken over a gap."""
        return statistics.fmean(self.values.values()) if self.complete else None

    @cached_property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two, or where one is missing."""
        return statistics.stdev(self.values.values()) if self.complete and len(self.values) > 1 else None

    @cached_property
    def iqm(self) -> Aggregate | None:
        """The interquartile mean over seeds; None for fewer than `LEAST_SEEDS`, or where one is missing."""
        enough = self.complete and len(self.values) >= LEAST_SEEDS
        return interquartile_mean([[self.values[seed] for seed in sorted(self.values)]]) if enough else None

    def text(self, decimals: int) -> str:
        """For reading: mean and spread of three seeds or more, else each value; empty without a record."""
        if self.complete and len(self.values) >= SPREAD_SEEDS:
            return f"{self.mean:.{decimals}f} ± {self.std:.{decimals}f}"
        return self.each(decimals)

    def each(self, decimals: int) -> str:
        """For reading: the value of every seed; empty without a record."""
        each = " / ".join(f"{self.values[seed]:.{decimals}f}" for seed in sorted(self.values))
        return each if self.complete or not each else f"{each} ({len(self.values)} of {len(self.seeds)} seeds)"

    def interval(self, decimals: int) -> str:
        """For reading: the interquartile mean and its interval; empty where there is none."""
        iqm = self.iqm
        return "" if iqm is None else iqm.text(decimals)


@dataclass(frozen=True)
class Summary:
    """A cell in figures and findings: a mean, and how far the seeds spread below and above it."""

    middle: float
    below: float
    above: float


def joint_spread(one: Summary, other: Summary) -> float:
    """How far apart two recipes may be by the spread of their seeds."""
    higher, lower = (one, other) if one.middle > other.middle else (other, one)
    return float((higher.below**2 + lower.above**2) ** 0.5)


def summary_of(cell: Cell, *, iqm: bool) -> Summary | None:
    """The mean and standard deviation, or the interquartile mean and its interval; None where a seed is missing."""
    if iqm:
        found = cell.iqm
        return None if found is None else Summary(found.value, found.value - found.low, found.high - found.value)
    return None if cell.mean is None else Summary(cell.mean, cell.std or 0.0, cell.std or 0.0)


class Results:
    """The records of one ablation, as a table asks for them.

    Args:
        records: of one task, data set, protocol and number of steps; at most one for each recipe and seed.

    Raises:
        ValueError: there is none, or they cannot be compared.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = sorted(records, key=lambda r: (r.position, r.recipe, r.seed))
        if not self.records:
            raise ValueError("there are no records to make a table of")
        self.first = self.records[0]
        for what in ALIKE:
            if any(getattr(record, what) != getattr(self.first, what) for record in self.records):
                raise ValueError(f"records of different {what} do not belong in one table")
        keys = [(r.recipe, r.seed) for r in self.records]
        if len(set(keys)) < len(keys):
            raise ValueError("two records of the same recipe and seed do not belong in one table")
        self._of: dict[str, list[Record]] = {}
        self._rows: dict[tuple[str, str], list[tuple[int, Row]]] = {}
        for record in self.records:
            self._of.setdefault(record.recipe, []).append(record)
            for row in record.rows:
                self._rows.setdefault((record.recipe, row.point), []).append((record.seed, row))
        self._cells: dict[tuple[str, str, str, str], Cell] = {}
        self._samples: dict[str, int] = {}
        self.recipes = list(self._of)
        self.seeds = tuple(sorted({record.seed for record in self.records}))
        self._first_rows = {row.point: row for record in reversed(self.records) for row in record.rows}
        self.points = sorted(self._first_rows, key=self._by_cost)
        self.baselines = {name: scores for record in self.records for name, scores in record.baselines.items()}

    @property
    def primary(self) -> MetricInfo:
        """The metric that figures and findings are about."""
        return self.first.metrics[0]

    def of(self, recipe: str) -> list[Record]:
        """A recipe's records, by seed."""
        return self._of.get(recipe, [])

    def titled(self, recipe: str) -> str:
        """A recipe's name in a figure, which tells where it lacks seeds."""
        count, all_ = len(self.of(recipe)), len(self.seeds)
        return recipe if count == all_ else f"{recipe} ({count} of {all_} seeds)"

    def individual(self, recipe: str) -> bool:
        """Whether the recipe is one network a width."""
        return self.of(recipe)[0].kind == "individual"

    def stage(self, recipe: str) -> str:
        """How the plans of a recipe were trained after they were found; empty where none were."""
        training = self.of(recipe)[0].training
        if not training.get("budgets") or self.individual(recipe):
            return ""
        share = training.get("retrained", 1.0)
        after = {None: "at once", "scratch": "trained from scratch", "further": "trained on"}[training.get("retrain")]
        return after if share == 1.0 else f"{after} for {share:g} of the steps"

    def untrained(self, recipe: str) -> str:
        """The recipe that ends where this one trains the plans that were found; the recipe itself if there is none."""
        own = _found_by(self.of(recipe)[0])
        return next((name for name in self.recipes if self.stage(name) and _found_by(self.of(name)[0]) == own), recipe)

    def width(self, point: str) -> float | None:
        """The width that an operating point is, or None for a plan or a rule."""
        return self._first_rows[point].width

    def label(self, point: str) -> str:
        """An operating point in a sentence: `width 0.25`, or the name of a plan or rule."""
        return label_of(point, self._first_rows[point].kind)

    def channels(self, recipe: str, point: str) -> list[list[int]]:
        """Of a plan: its channels in each group of layers, those of each seed where they differ; else empty."""
        plans = (row.channels for _, row in self._at(recipe, point) if row.channels)
        return [list(plan) for plan in dict.fromkeys(map(tuple, plans))]

    def evaluations(self, recipe: str) -> float:
        """Plans that the search of a recipe has scored, on average over the seeds; 0 where there was none."""
        counts = [row.found.get("evaluations", 0.0) for record in self.of(recipe) for row in record.rows[:1]]
        return statistics.fmean(counts) if counts else 0.0

    def held_out_loss(self, recipe: str, point: str) -> float | None:
        """By which a plan was chosen, on average over the seeds; None where it was not."""
        losses = [row.found["held_out_loss"] for _, row in self._at(recipe, point) if "held_out_loss" in row.found]
        return statistics.fmean(losses) if losses else None

    def kind(self, point: str) -> str:
        """What kind of operating point it is."""
        return self._first_rows[point].kind

    def of_one_recipe(self, point: str) -> bool:
        """Whether a single recipe has the operating point."""
        return sum((recipe, point) in self._rows for recipe in self.recipes) == 1

    @property
    def widths_alone(self) -> bool:
        """Whether every operating point is a width."""
        return all(row.kind == "width" for row in self._first_rows.values())

    def cell(self, recipe: str, point: str, dataset: str, metric: str) -> Cell:
        """What was measured; empty where nothing was."""
        key = recipe, point, dataset, metric
        if key not in self._cells:
            values = {
                seed: row.metrics[dataset][metric]
                for seed, row in self._at(recipe, point)
                if metric in row.metrics.get(dataset, {})
            }
            self._cells[key] = Cell(values, self.seeds)
        return self._cells[key]

    def mean(self, recipe: str, dataset: str, metric: str) -> Cell:
        """Over all operating points, of the seeds that were measured at each of them."""
        cells = [self.cell(recipe, point, dataset, metric).values for point in self.points]
        seeds = set.intersection(*map(set, cells))
        return Cell({seed: statistics.fmean(cell[seed] for cell in cells) for seed in seeds}, self.seeds)

    def _at(self, recipe: str, point: str) -> list[tuple[int, Row]]:
        """A recipe's rows of one operating point, each with its seed."""
        return self._rows.get((recipe, point), [])

    def summary(self, recipe: str, point: str, dataset: str, metric: str, *, partly: bool = False) -> Summary | None:
        """The mean and standard deviation, or the interquartile mean and its interval; None where a seed is missing.

        `partly`: where one is missing, the mean over the others, without a spread.
        """
        cell = self.cell(recipe, point, dataset, metric)
        if partly and cell.values and not cell.complete:
            return Summary(statistics.fmean(cell.values.values()), 0.0, 0.0)
        return summary_of(cell, iqm=self.by_iqm(metric))

    def by_iqm(self, metric: str) -> bool:
        """Whether the metric is summarised by its interquartile mean: it has samples, and there are seeds enough."""
        return self.samples(metric) > 0 and len(self.seeds) >= LEAST_SEEDS

    def samples(self, metric: str) -> int:
        """How many episodes, or the like, a value of the metric is the mean of; 0 where records do not tell."""
        if metric not in self._samples:
            rows = (row for record in self.records for row in record.rows)
            counts = (len(by.get(metric, ())) for row in rows for by in row.samples.values())
            self._samples[metric] = max(counts, default=0)
        return self._samples[metric]

    def curves(self, recipe: str, point: str, dataset: str, metric: str) -> dict[int, list[list[float]]]:
        """Seed -> [steps trained, value] in the course of the training; a last point alone is no curve."""
        found = {seed: row.curve.get(dataset, {}).get(metric, []) for seed, row in self._at(recipe, point)}
        return {seed: moments for seed, moments in found.items() if len(moments) > 1}

    def cost(self, recipe: str, point: str) -> Spent | None:
        """What an input costs, on average over the seeds, or None."""
        rows = [row for _, row in self._at(recipe, point)]
        return _mean_cost(rows) if rows else None

    def _by_cost(self, point: str) -> tuple[float, float, str]:
        """Cheap ones first, by the mean over recipes."""
        costs = [cost.macs for recipe in self.recipes if (cost := self.cost(recipe, point)) is not None]
        return statistics.fmean(costs), self.width(point) or 0.0, point

    def caption(self) -> str:
        """What a reader must know to trust the numbers."""
        first, seeds = self.first, self.seeds
        spread = (
            f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}"
            if len(seeds) >= SPREAD_SEEDS
            else f"seed {seeds[0]} alone"
            if len(seeds) == 1
            else f"seeds {' and '.join(map(str, seeds))}, each shown"
        )
        spread += self._aggregated()
        individual = any(self.individual(recipe) for recipe in self.recipes)
        shape = " x ".join(map(str, first.input))
        note = " Individual: one ordinary network built and trained for each width." if individual else ""
        note += self._chosen()
        precision = f" in {first.settings['precision']}" if "precision" in first.settings else ""
        trained = (
            f"{network_name(first.settings)}trained on {first.dataset}, "
            f"{first.steps:,} {first.step_unit} for each network{precision} (scale {first.scale})"
        )
        measured = f"{first.protocol.rstrip('.')}. Multiply-adds of one input of {shape}."
        if any(row.kind == "per-input" for row in self._first_rows.values()):
            note += " Where a rule chooses a width for each input, costs are means over the inputs."
        return f"{first.question} Task {first.task}, {trained}; {spread}. {measured}{note}"

    def _chosen(self) -> str:
        """What a reader must know of plans."""
        plans = [record.training for record in self.records if record.training.get("budgets")]
        if not plans or self.first.task == "rl":
            return ""
        return (
            " Plans are chosen by the loss on a tenth of the training data, or as much as the recipes say, which no "
            "network here is trained on. Their statistics are computed from what is left."
        )

    def _aggregated(self) -> str:
        samples, seeds = self.samples(self.primary.name), len(self.seeds)
        if not samples:
            return ""
        episodes = f"; each value is the mean of {samples} episodes"
        if seeds < LEAST_SEEDS:
            return episodes
        return (
            f"{episodes}; IQM: mean of the middle half of the {seeds} seeds, with the {100 * CONFIDENCE:g} % interval "
            f"of {RESAMPLES:,} bootstrap samples of them"
        )


def _found_by(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.training.items() if key not in ("retrain", "retrained")}


def _mean_cost(rows: Sequence[Row]) -> Spent:
    timed = [row.milliseconds for row in rows if row.milliseconds is not None]
    return Spent(
        statistics.fmean(row.macs for row in rows),
        round(statistics.fmean(row.params for row in rows)),
        statistics.fmean(timed) if timed else None,
        {name: statistics.fmean(row.shares.get(name, 0.0) for row in rows) for row in rows for name in row.shares},
        {size: statistics.fmean(row.at_batch[size] for row in rows) for size in _sizes(rows)},
    )


def _sizes(rows: Sequence[Row]) -> list[str]:
    """The sizes of batches that all rows were timed at."""
    return [size for size in rows[0].at_batch if all(size in row.at_batch for row in rows)]


def network_name(settings: Mapping[str, Any]) -> str:
    """The network that a task's settings name, for captions: `resnet18 x 0.25, `; empty where they name none."""
    if "model" not in settings:
        return ""
    thinner = f" x {settings['multiplier']:g}" if settings.get("multiplier", 1.0) != 1.0 else ""
    return f"{settings['model']}{thinner}, "
