"""Tables, made from records alone: tidy for programs (CSV), and a row a recipe for people (Markdown, LaTeX)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from benchmarks.analysis.aggregates import CONFIDENCE
from benchmarks.analysis.grid import Grid, escaped, latex, markdown
from benchmarks.analysis.results import SPREAD_SEEDS, Cell, Results
from benchmarks.records.record import MetricInfo

COLUMNS = ("recipe", "width", "macs", "params", "dataset", "metric", "mean", "std", "seeds", "values")

SAMPLED_COLUMNS = ("iqm", "iqm_low", "iqm_high")
"""Added where a metric is the mean of recorded samples: the return of an episode."""


def tidy(results: Results) -> pd.DataFrame:
    """A row for each recipe, width, evaluation set and metric; baselines without width and cost."""
    sampled = [metric.name for metric in results.first.metrics if results.samples(metric.name)]
    columns = [*COLUMNS, *(SAMPLED_COLUMNS if sampled else ())]
    blank = [""] * (len(columns) - len(COLUMNS))
    rows: list[list[object]] = []
    for name, scores in results.baselines.items():
        for dataset, values in scores.items():
            rows += [[name, "", "", "", dataset, m, value, "", "", value, *blank] for m, value in values.items()]
    for recipe in results.recipes:
        for width in results.widths:
            cost = results.cost(recipe, width)
            if cost is None:
                continue
            for dataset in results.first.eval_sets:
                for name in (metric.name for metric in results.first.metrics):
                    cell = results.cell(recipe, width, dataset, name)
                    aggregate = _interval(cell) if name in sampled else blank
                    rows.append([recipe, width, *cost, dataset, name, *_numbers(cell), *aggregate])
    return pd.DataFrame(rows, columns=columns, dtype=object)


def table_csv(results: Results) -> str:
    """The tidy table as text."""
    return str(tidy(results).to_csv(index=False, lineterminator="\n"))


def _numbers(cell: Cell) -> list[float | str]:
    seeds = sorted(cell.values)
    mean = "" if cell.mean is None else cell.mean
    std = "" if cell.std is None else cell.std
    return [mean, std, ";".join(map(str, seeds)), ";".join(repr(cell.values[seed]) for seed in seeds)]


def _interval(cell: Cell) -> list[float | str]:
    iqm = cell.iqm
    return [""] * len(SAMPLED_COLUMNS) if iqm is None else [iqm.value, iqm.low, iqm.high]


WIDEST_GRID = 10
"""With more widths than these a table has a row a width, since no page is wide enough."""


def grids(results: Results, *, plus_minus: str = " ± ") -> list[Grid]:
    """A grid for each evaluation set and metric, the primary metric first; a second one where it has samples."""
    return [
        grid
        for metric in results.first.metrics
        for dataset in results.first.eval_sets
        for grid in grids_of(results, dataset, metric, plus_minus=plus_minus)
    ]


def grids_of(results: Results, dataset: str, metric: MetricInfo, *, plus_minus: str = " ± ") -> list[Grid]:
    """The grids of one evaluation set and metric."""
    made = [_grid_of_means(results, dataset, metric, plus_minus)]
    if results.samples(metric.name) and len(results.seeds) >= SPREAD_SEEDS:
        made.append(_grid_of_seeds(results, dataset, metric))
    return made


def _grid_of_means(results: Results, dataset: str, metric: MetricInfo, plus_minus: str) -> Grid:
    places = decimals(metric)
    unit = f" ({metric.unit})" if metric.unit else ""
    title = f"{shown_name(metric)}{unit} on {dataset}, {metric.better} is better"
    rows = cost_rows(results)
    for name, scores in results.baselines.items():
        value = scores.get(dataset, {}).get(metric.name)
        text = "" if value is None else f"{value:.{places}f}"
        rows.append([name, *[text] * len(results.widths)])
    rows += _rows(results, dataset, metric, lambda cell: cell.text(places, plus_minus))
    return grid_of_widths(title, results.widths, rows)


def _grid_of_seeds(results: Results, dataset: str, metric: MetricInfo) -> Grid:
    """The interquartile mean and its interval; where the seeds are too few for it, each of them."""
    places, name = decimals(metric), shown_name(metric)
    if not results.by_iqm(metric.name):
        title = f"Every seed's {name} on {dataset}"
        return grid_of_widths(title, results.widths, _rows(results, dataset, metric, lambda cell: cell.each(places)))
    title = f"IQM of {name} on {dataset}, {100 * CONFIDENCE:g} % bootstrap interval"
    return grid_of_widths(title, results.widths, _rows(results, dataset, metric, lambda cell: cell.interval(places)))


def grid_of_widths(title: str, widths: Sequence[float], rows: list[list[str]]) -> Grid:
    """A column a width; where these are too many for a page, a row a width."""
    head = ["width", *(f"{w:g}" for w in widths)]
    if len(widths) > WIDEST_GRID:
        head, *rows = (list(column) for column in zip(head, *rows, strict=True))
    return Grid(title, head, rows)


def _rows(results: Results, dataset: str, metric: MetricInfo, text: Callable[[Cell], str]) -> list[list[str]]:
    """A row a recipe."""
    return [
        [recipe, *(text(results.cell(recipe, width, dataset, metric.name)) for width in results.widths)]
        for recipe in results.recipes
    ]


WORDS = ("return",)  # names of metrics that are no abbreviations


def shown_name(metric: MetricInfo) -> str:
    """A metric's name for readers: top1_error -> top-1 error, psnr -> PSNR, return -> return."""
    name = metric.name.replace("_", " ").replace("top1", "top-1").replace("top5", "top-5")
    return name if " " in name or name in WORDS else name.upper()


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
    if metric.name == "return":
        return 1
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
    parts += [markdown(grid) for grid in grids(results)]
    return "\n\n".join(parts) + "\n"


def table_tex(results: Results, finding: str) -> str:
    """LaTeX (needs booktabs): a tabular for each evaluation set and metric in one table."""
    lines = [
        "% made from records; do not edit",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escaped(finding)}. {escaped(results.caption())}}}",
    ]
    for grid in grids(results, plus_minus=" $\\pm$ "):
        lines += latex(grid)
    return "\n".join([*lines, "\\end{table}"]) + "\n"
