"""Tables, made from records alone: tidy for programs (CSV), and a row a recipe for people (Markdown, LaTeX)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.records import MetricInfo, Record

COLUMNS = ("recipe", "width", "macs", "params", "dataset", "metric", "mean", "std", "seeds", "values")

ALIKE = ("task", "ablation", "scale", "dataset", "protocol", "steps", "settings", "input", "eval_sets", "metrics")
"""What all records of one table have in common."""


@dataclass(frozen=True)
class Cell:
    """The values of one recipe at one width: {seed: value}, of the seeds that the table has."""

    values: dict[int, float]
    seeds: tuple[int, ...]

    @property
    def complete(self) -> bool:
        """Whether no seed of the table is missing here."""
        return bool(self.values) and set(self.values) == set(self.seeds)

    @property
    def mean(self) -> float | None:
        """None where a seed is missing: no mean is taken over a gap."""
        return statistics.fmean(self.values.values()) if self.complete else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two, or where one is missing."""
        return statistics.stdev(self.values.values()) if self.complete and len(self.values) > 1 else None

    def text(self, decimals: int, plus_minus: str = " ± ") -> str:
        """For reading: mean and spread of three seeds or more, else each value; empty without a record."""
        if self.complete and len(self.values) >= 3:
            return f"{self.mean:.{decimals}f}{plus_minus}{self.std:.{decimals}f}"
        each = " / ".join(f"{self.values[seed]:.{decimals}f}" for seed in sorted(self.values))
        return each if self.complete or not each else f"{each} ({len(self.values)} of {len(self.seeds)} seeds)"


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
        self.recipes = list(dict.fromkeys(record.recipe for record in self.records))
        self.seeds = tuple(sorted({record.seed for record in self.records}))
        self.widths = sorted({row.width for record in self.records for row in record.rows})
        self.baselines = {name: scores for record in self.records for name, scores in record.baselines.items()}

    @property
    def primary(self) -> MetricInfo:
        """The metric that figures and findings are about."""
        return self.first.metrics[0]

    def of(self, recipe: str) -> list[Record]:
        """A recipe's records, by seed."""
        return [record for record in self.records if record.recipe == recipe]

    def individual(self, recipe: str) -> bool:
        """Whether the recipe is one network a width."""
        return self.of(recipe)[0].kind == "individual"

    def cell(self, recipe: str, width: float, dataset: str, metric: str) -> Cell:
        """What was measured; empty where nothing was."""
        values = {
            record.seed: row.metrics[dataset][metric]
            for record in self.of(recipe)
            for row in record.rows
            if row.width == width and metric in row.metrics.get(dataset, {})
        }
        return Cell(values, self.seeds)

    def cost(self, recipe: str, width: float) -> tuple[int, int] | None:
        """Multiply-adds and parameters, or None."""
        rows = (row for record in self.of(recipe) for row in record.rows if row.width == width)
        return next(((row.macs, row.params) for row in rows), None)

    def caption(self) -> str:
        """What a reader must know to trust the numbers."""
        first, seeds = self.first, self.seeds
        spread = (
            f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}"
            if len(seeds) >= 3
            else f"seed {seeds[0]} alone"
            if len(seeds) == 1
            else f"seeds {' and '.join(map(str, seeds))}, each shown"
        )
        individual = any(self.individual(recipe) for recipe in self.recipes)
        shape = " x ".join(map(str, first.input))
        note = " Individual: one ordinary network built and trained for each width." if individual else ""
        precision = f" in {first.settings['precision']}" if "precision" in first.settings else ""
        trained = (
            f"{network_name(first.settings)}trained on {first.dataset}, "
            f"{first.steps:,} {first.step_unit} for each network{precision} (scale {first.scale})"
        )
        measured = f"{first.protocol.rstrip('.')}. Multiply-adds of one input of {shape}."
        return f"{first.question} Task {first.task}, {trained}; {spread}. {measured}{note}"


def network_name(settings: Mapping[str, Any]) -> str:
    """The network that a task's settings name, for captions: `resnet18 x 0.25, `; empty where they name none."""
    if "model" not in settings:
        return ""
    thinner = f" x {settings['multiplier']:g}" if settings.get("multiplier", 1.0) != 1.0 else ""
    return f"{settings['model']}{thinner}, "


def tidy(results: Results) -> pd.DataFrame:
    """A row for each recipe, width, evaluation set and metric; baselines without width and cost."""
    rows: list[list[object]] = []
    for name, scores in results.baselines.items():
        for dataset, values in scores.items():
            rows += [[name, "", "", "", dataset, metric, value, "", "", value] for metric, value in values.items()]
    for recipe in results.recipes:
        for width in results.widths:
            cost = results.cost(recipe, width)
            if cost is None:
                continue
            for dataset in results.first.eval_sets:
                for name in (metric.name for metric in results.first.metrics):
                    cell = results.cell(recipe, width, dataset, name)
                    rows.append([recipe, width, *cost, dataset, name, *_numbers(cell)])
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def table_csv(results: Results) -> str:
    """The tidy table as text."""
    return tidy(results).to_csv(index=False, lineterminator="\n")


def _numbers(cell: Cell) -> list[float | str]:
    seeds = sorted(cell.values)
    mean = "" if cell.mean is None else cell.mean
    std = "" if cell.std is None else cell.std
    return [mean, std, ";".join(map(str, seeds)), ";".join(repr(cell.values[seed]) for seed in seeds)]


WIDEST_GRID = 10
"""With more widths than these a table has a row a width, since no page is wide enough."""


@dataclass(frozen=True)
class Grid:
    """One table for reading: the title, the widths' heads, and a row a recipe; or the other way round."""

    title: str
    head: list[str]
    rows: list[list[str]]


def grids(results: Results, *, plus_minus: str = " ± ") -> list[Grid]:
    """A grid for each evaluation set and metric, the primary metric first."""
    made = []
    for metric in results.first.metrics:
        for dataset in results.first.eval_sets:
            unit = f" ({metric.unit})" if metric.unit else ""
            title = f"{shown_name(metric)}{unit} on {dataset}, {metric.better} is better"
            head = ["width", *(f"{w:g}" for w in results.widths)]
            rows = _rows(results, dataset, metric, plus_minus)
            if len(results.widths) > WIDEST_GRID:
                head, *rows = (list(column) for column in zip(head, *rows, strict=True))
            made.append(Grid(title, head, rows))
    return made


def shown_name(metric: MetricInfo) -> str:
    """A metric's name for readers: top1_error -> top-1 error, psnr -> PSNR."""
    name = metric.name.replace("_", " ").replace("top1", "top-1").replace("top5", "top-5")
    return name if " " in name else name.upper()


def _rows(results: Results, dataset: str, metric: MetricInfo, plus_minus: str) -> list[list[str]]:
    places = decimals(metric)
    rows = cost_rows(results)
    for name, scores in results.baselines.items():
        value = scores.get(dataset, {}).get(metric.name)
        text = "" if value is None else f"{value:.{places}f}"
        rows.append([name, *[text] * len(results.widths)])
    for recipe in results.recipes:
        cells = [results.cell(recipe, width, dataset, metric.name) for width in results.widths]
        rows.append([recipe, *(cell.text(places, plus_minus) for cell in cells)])
    return rows


def cost_rows(results: Results) -> list[list[str]]:
    """Multiply-adds and parameters of each width, where all recipes agree; else a row for each recipe."""
    rows = []
    for index, what in enumerate(("multiply-adds", "parameters")):
        costs = {r: [results.cost(r, width) for width in results.widths] for r in results.recipes}
        known = [{c[i][index] for c in costs.values() if c[i]} for i in range(len(results.widths))]  # type: ignore[index]
        if all(len(values) <= 1 for values in known):
            rows.append([what, *(short(next(iter(values))) if values else "" for values in known)])
        else:
            rows += [[f"{what}, {r}", *("" if c is None else short(c[index]) for c in row)] for r, row in costs.items()]
    return rows


def decimals(metric: MetricInfo) -> int:
    """Digits after the point that papers print."""
    return 2 if metric.unit in ("dB", "%") else 4


def short(number: float) -> str:
    """1234567 -> 1.23 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"


def table_md(results: Results, finding: str) -> str:
    """Markdown: finding, caption, and a table for each evaluation set and metric."""
    parts = [f"# {finding}", results.caption()]
    for grid in grids(results):
        lines = [f"**{grid.title}**", "", _md_line(grid.head), _md_line(["---", *["---:"] * (len(grid.head) - 1)])]
        parts.append("\n".join([*lines, *(_md_line(row) for row in grid.rows)]))
    return "\n\n".join(parts) + "\n"


def _md_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table_tex(results: Results, finding: str) -> str:
    """LaTeX (needs booktabs): a tabular for each evaluation set and metric in one table."""
    lines = [
        "% made from records; do not edit",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_tex(finding)}. {_tex(results.caption())}}}",
    ]
    for grid in grids(results, plus_minus=" $\\pm$ "):
        columns = "l" + "r" * (len(grid.head) - 1)
        lines += ["", f"{_tex(grid.title)}\\\\", f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
        lines += [" & ".join(_tex(cell) for cell in grid.head) + " \\\\", "\\midrule"]
        lines += [" & ".join(_tex(cell) for cell in row) + " \\\\" for row in grid.rows]
        lines += ["\\bottomrule", "\\end{tabular}", ""]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def _tex(text: str) -> str:
    for plain, escaped in (
        ("&", "\\&"),
        ("%", "\\%"),
        ("#", "\\#"),
        ("_", "\\_"),
        ("±", "$\\pm$"),
        (">", "$>$"),
        ("<", "$<$"),
    ):
        text = text.replace(plain, escaped)
    return text
