"""What the page draws and lists of one table: each metric over multiply-adds, and the grids for reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.analysis.ablation import cost_rows, decimals, grids_of, shown_name
from benchmarks.analysis.figures import LOGARITHMIC, axis_label, near
from benchmarks.analysis.grid import Grid
from benchmarks.analysis.results import Results, Summary
from benchmarks.records.record import MetricInfo
from tasks.points import Spent

FEW_RECIPES = 10
"""With more recipes than these a grid keeps a row a recipe, however many points it has: it can be filtered by them."""

Json = dict[str, Any]
"""What JSON can hold."""


def table(results: Results) -> Json:
    """A table as the page's script reads it: recipes, operating points and their costs, a view for each metric and set.

    Where all recipes cost the same, the costs are there once.
    """
    costs = [[_cost(results.cost(recipe, point)) for point in results.points] for recipe in results.recipes]
    known = [cost["macs"] for row in costs for cost in row if cost is not None]
    return {
        "recipes": results.recipes,
        "titles": list(map(results.titled, results.recipes)),
        "individual": [number for number, recipe in enumerate(results.recipes) if results.individual(recipe)],
        "seeds": list(results.seeds),
        "points": [{"label": results.label(point), "width": results.width(point)} for point in results.points],
        "costs": costs[:1] if all(row == costs[0] for row in costs) else costs,
        "logarithmic": bool(known) and 0 < LOGARITHMIC * min(known) < max(known),
        "views": [_view(results, m, dataset) for m in results.first.metrics for dataset in results.first.eval_sets],
    }


def _cost(cost: Spent | None) -> Json | None:
    """What is drawn of it; a number that was not measured is left out."""
    return None if cost is None else {k: v for k, v in asdict(cost).items() if k != "params" and v not in (None, {})}


def _view(results: Results, metric: MetricInfo, dataset: str) -> Json:
    summaries = [
        [results.summary(recipe, point, dataset, metric.name, partly=True) for point in results.points]
        for recipe in results.recipes
    ]
    middles = [summary.middle for row in summaries for summary in row if summary is not None]
    baselines = [
        [name, scores[dataset][metric.name], near(scores[dataset][metric.name], middles)]
        for name, scores in results.baselines.items()
        if metric.name in scores.get(dataset, {})
    ]
    return {
        "name": f"{shown_name(metric)} on {dataset}",
        "axis": axis_label(results, metric),
        "unit": metric.unit,
        "decimals": decimals(metric),
        "interval": results.by_iqm(metric.name),
        "series": [_series(row) for row in summaries],
        "baselines": baselines,
        "grids": [grid_data(_by_recipe(results, grid), results) for grid in grids_of(results, dataset, metric)],
    }


def _series(row: Sequence[Summary | None]) -> list[list[float | None]]:
    """The middles; below and above them too where seeds spread."""
    parts = [
        [None if summary is None else rounded(getattr(summary, what)) for summary in row]
        for what in ("middle", "below", "above")
    ]
    return parts if any(parts[1]) or any(parts[2]) else parts[:1]


def _by_recipe(results: Results, grid: Grid) -> Grid:
    """The grid with a row a recipe, where recipes are too many for columns."""
    if grid.head[1:] == results.points:
        return grid
    if len(results.recipes) <= FEW_RECIPES:
        return grid
    head, *rows = (list(column) for column in zip(grid.head, *grid.rows, strict=True))
    return Grid(grid.title, head, rows)


def grid_data(grid: Grid, results: Results) -> Json:
    """A grid; the rows of costs, where they are the same for all recipes, stay on top and are not sorted."""
    costs = cost_rows(results)
    same = all(", " not in what for what, *_ in costs)  # else it names a recipe
    shown = [row[: len(costs[0])] for row in grid.rows[: len(costs)]]  # a mean over the points may follow
    pinned = len(costs) if same and shown == costs else 0
    return {"title": grid.title, "head": grid.head, "pinned": grid.rows[:pinned], "rows": grid.rows[pinned:]}


def rounded(number: float) -> float:
    """Six digits: more than a screen can show."""
    return float(f"{number:.6g}")
