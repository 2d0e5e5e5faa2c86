"""Tables, made from records alone: tidy for programs (CSV), and a row a recipe for people (Markdown, LaTeX)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from benchmarks.analysis.aggregates import CONFIDENCE
from benchmarks.analysis.grid import Grid, escaped, latex, markdown
from benchmarks.analysis.per_input import chooses_for_inputs, grid_of_spent
from benchmarks.analysis.results import SPREAD_SEEDS, Cell, Results
from benchmarks.records.record import MetricInfo
from tasks.points import Spent
from tasks.task import Metric

COLUMNS = (
    "recipe", "point", "kind", "width", "macs", "params", "dataset", "metric", "mean", "std", "seeds", "values",
)  # fmt: skip
OWN_COLUMNS = ("channels", "milliseconds", "shares", "at_batch")
"""Added where an operating point has them."""

SAMPLED_COLUMNS = ("iqm", "iqm_low", "iqm_high")
"""Added where a metric is the mean of recorded samples: the return of an episode."""


def tidy(results: Results) -> pd.DataFrame:
    """A row for each recipe, operating point, evaluation set and metric; baselines without point and cost."""
    rows: list[dict[str, object]] = []
    for name, scores in results.baselines.items():
        for dataset, values in scores.items():
            rows += [
                {"recipe": name, "dataset": dataset, "metric": m, "mean": v, "values": v} for m, v in values.items()
            ]
    for recipe in results.recipes:
        for point in results.points:
            own = _point(results, recipe, point)
            for dataset in results.first.eval_sets if own else ():
                for name in (metric.name for metric in results.first.metrics):
                    cell = results.cell(recipe, point, dataset, name)
                    rows.append({**own, "dataset": dataset, "metric": name, **_numbers(cell)})
                    if results.samples(name):
                        rows[-1] |= _interval(cell)
    used = {column for row in rows for column in row}
    sampled = SAMPLED_COLUMNS if any(results.samples(metric.name) for metric in results.first.metrics) else ()
    columns = [*COLUMNS, *(column for column in OWN_COLUMNS if column in used), *sampled]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def _point(results: Results, recipe: str, point: str) -> dict[str, object]:
    """What a recipe's operating point is and costs; empty where it has none."""
    cost = results.cost(recipe, point)
    if cost is None:
        return {}
    macs = int(cost.macs) if cost.macs.is_integer() else cost.macs
    what = {"recipe": recipe, "point": point, "kind": results.kind(point), "width": results.width(point)}
    found: dict[str, object] = {**what, "macs": macs, "params": cost.params}
    if plans := results.channels(recipe, point):
        found["channels"] = ";".join(" ".join(map(str, plan)) for plan in plans)
    if cost.milliseconds is not None:
        found["milliseconds"] = cost.milliseconds
    if cost.shares:
        found["shares"] = ";".join(f"{name}:{share!r}" for name, share in cost.shares.items())
    if cost.at_batch:
        found["at_batch"] = ";".join(f"{size}:{time!r}" for size, time in cost.at_batch.items())
    return found


def table_csv(results: Results) -> str:
    """The tidy table as text."""
    return str(tidy(results).to_csv(index=False, lineterminator="\n"))


def _numbers(cell: Cell) -> dict[str, object]:
    seeds = sorted(cell.values)
    values = ";".join(repr(cell.values[seed]) for seed in seeds)
    return {"mean": cell.mean, "std": cell.std, "seeds": ";".join(map(str, seeds)), "values": values}


def _interval(cell: Cell) -> dict[str, object]:
    iqm = cell.iqm
    return {} if iqm is None else dict(zip(SAMPLED_COLUMNS, (iqm.value, iqm.low, iqm.high), strict=True))


WIDEST_GRID = 10
"""With more operating points than these a table has a row for each, since no page is wide enough."""


def grids(results: Results) -> list[Grid]:
    """A grid for each evaluation set and metric, the primary metric first; a second one where it has samples."""
    return [
        grid
        for metric in results.first.metrics
        for dataset in results.first.eval_sets
        for grid in grids_of(results, dataset, metric)
    ]


def grids_of(results: Results, dataset: str, metric: MetricInfo) -> list[Grid]:
    """The grids of one evaluation set and metric."""
    made = [_grid_of_means(results, dataset, metric)]
    if results.samples(metric.name) and len(results.seeds) >= SPREAD_SEEDS:
        made.append(_grid_of_seeds(results, dataset, metric))
    return made


def _grid_of_means(results: Results, dataset: str, metric: MetricInfo) -> Grid:
    places = decimals(metric)
    unit = f" ({metric.unit})" if metric.unit else ""
    title = f"{shown_name(metric)}{unit} on {dataset}, {metric.better} is better"
    if chooses_for_inputs(results):
        return grid_of_spent(results, dataset, metric, title, places)
    rows = cost_rows(results)
    for name, scores in results.baselines.items():
        value = scores.get(dataset, {}).get(metric.name)
        text = "" if value is None else f"{value:.{places}f}"
        rows.append([name, *[text] * len(results.points)])
    rows += _rows(results, dataset, metric, lambda cell: cell.text(places))
    grid = _grid(results, title, rows)
    if len(results.points) > WIDEST_GRID:
        means = {recipe: results.mean(recipe, dataset, metric.name).text(places) for recipe in results.recipes}
        if any(means.values()):
            grid.rows.append(["mean", *(means.get(name, "") for name in grid.head[1:])])
    return grid


def _grid_of_seeds(results: Results, dataset: str, metric: MetricInfo) -> Grid:
    """The interquartile mean and its interval; where the seeds are too few for it, each of them."""
    places, name = decimals(metric), shown_name(metric)
    if not results.by_iqm(metric.name):
        title = f"Every seed's {name} on {dataset}"
        return _grid(results, title, _rows(results, dataset, metric, lambda cell: cell.each(places)))
    title = f"IQM of {name} on {dataset}, {100 * CONFIDENCE:g} % bootstrap interval"
    return _grid(results, title, _rows(results, dataset, metric, lambda cell: cell.interval(places)))


def _grid(results: Results, title: str, rows: list[list[str]]) -> Grid:
    return grid_of_points(title, "width" if results.widths_alone else "operating point", results.points, rows)


def grid_of_points(title: str, what: str, points: Sequence[str], rows: list[list[str]]) -> Grid:
    """A column for each operating point; where these are too many for a page, a row."""
    head = [what, *points]
    if len(points) > WIDEST_GRID:
        head, *rows = (list(column) for column in zip(head, *rows, strict=True))
    return Grid(title, head, rows)


def _rows(results: Results, dataset: str, metric: MetricInfo, text: Callable[[Cell], str]) -> list[list[str]]:
    """A row a recipe."""
    return [
        [recipe, *(text(results.cell(recipe, point, dataset, metric.name)) for point in results.points)]
        for recipe in results.recipes
    ]


WORDS = ("return",)  # names of metrics that are no abbreviations


def shown_name(metric: Metric | MetricInfo) -> str:
    """A metric's name for readers: top1_error -> top-1 error, psnr -> PSNR, box_ap50 -> box AP50, return -> return."""
    name = metric.name.replace("_ap", " AP").replace("_", " ").replace("top1", "top-1").replace("top5", "top-5")
    return name if " " in name or name in WORDS else name.upper()


def cost_rows(results: Results) -> list[list[str]]:
    """What each operating point costs, where all recipes agree; else a row for those that do."""
    costs = {recipe: [results.cost(recipe, point) for point in results.points] for recipe in results.recipes}
    known = [cost for row in costs.values() for cost in row if cost is not None]
    shown: dict[str, Callable[[Spent], str]] = {
        "multiply-adds": lambda cost: short(cost.macs),
        "parameters": lambda cost: short(cost.params),
    }
    if any(cost.milliseconds is not None for cost in known):
        shown["milliseconds"] = lambda cost: "" if cost.milliseconds is None else f"{cost.milliseconds:.3g}"
    for name in dict.fromkeys(name for cost in known for name in cost.shares):
        shown[f"inputs at width {name}"] = partial(_share, name)
    rows = []
    for what, text in shown.items():
        texts = {recipe: ["" if cost is None else text(cost) for cost in row] for recipe, row in costs.items()}
        columns = [set(filter(None, column)) for column in zip(*texts.values(), strict=True)]
        if all(len(values) <= 1 for values in columns):
            rows.append([what, *("".join(values) for values in columns)])
        else:
            rows += [[f"{what}, {names}", *row] for row, names in _of_equal_rows(texts).items()]
    return rows


def _of_equal_rows(texts: Mapping[str, list[str]]) -> dict[tuple[str, ...], str]:
    """A row of cells -> the recipe that has it, and how many have the same."""
    names: dict[tuple[str, ...], list[str]] = {}
    for recipe, row in texts.items():
        names.setdefault(tuple(row), []).append(recipe)
    return {row: f"{of[0]} and {len(of) - 1} like it" if len(of) > 1 else of[0] for row, of in names.items()}


def _share(name: str, cost: Spent) -> str:
    return f"{100 * cost.shares[name]:.0f} %" if name in cost.shares else ""


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


def table_md(results: Results, finding: str, more: Sequence[Grid] = ()) -> str:
    """Markdown: finding, caption, a table for each evaluation set and metric, and `more`."""
    parts = [f"# {finding}", results.caption()]
    parts += [markdown(grid) for grid in [*grids(results), *more]]
    return "\n\n".join(parts) + "\n"


def table_tex(results: Results, finding: str, more: Sequence[Grid] = ()) -> str:
    """LaTeX (needs booktabs): a tabular for each evaluation set and metric, and for `more`, in one table."""
    lines = [
        "% made from records; do not edit",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escaped(finding)}. {escaped(results.caption())}}}",
    ]
    for grid in [*grids(results), *more]:
        lines += latex(grid)
    return "\n".join([*lines, "\\end{table}"]) + "\n"
