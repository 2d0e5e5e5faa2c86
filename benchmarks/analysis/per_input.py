"""A table for rules that choose a width for each input: a row for each recipe and point, and what it spent."""

from __future__ import annotations

from benchmarks.analysis.grid import Grid
from benchmarks.analysis.results import Results
from benchmarks.records.record import MetricInfo
from tasks.points import Spent


def chooses_for_inputs(results: Results) -> bool:
    """Whether some recipes choose a width for each input, so that what a point costs differs between recipes."""
    costs = [results.cost(recipe, point) for recipe in results.recipes for point in results.points]
    return len(results.recipes) > 1 and any(cost is not None and cost.at_batch for cost in costs)


def grid_of_spent(results: Results, dataset: str, metric: MetricInfo, title: str, places: int) -> Grid:
    """What every recipe costs and scores at each of its points: cheap ones first within a recipe."""
    sizes = list(dict.fromkeys(size for _, _, cost in _costs(results) for size in cost.at_batch))
    times = [f"ms, batch {size}" for size in sizes]
    head = ["recipe", "point", "multiply-adds", "of full", *times, "inputs at each width", title.partition(" on ")[0]]
    full = max((cost.macs for recipe, point, cost in _costs(results) if results.width(point) == 1.0), default=None)
    rows = []
    for name, scores in results.baselines.items():
        value = scores.get(dataset, {}).get(metric.name)
        rows.append([name, *[""] * (len(head) - 2), "" if value is None else f"{value:.{places}f}"])
    for recipe, point, cost in _costs(results):
        share = "" if full is None else f"{100 * cost.macs / full:.0f} %"
        timed = [f"{cost.at_batch[size]:.3g}" if size in cost.at_batch else "" for size in sizes]
        text = results.cell(recipe, point, dataset, metric.name).text(places)
        rows.append([recipe, results.label(point), f"{cost.macs:,.0f}", share, *timed, _shares(cost), text])
    return Grid(title, head, rows)


def _costs(results: Results) -> list[tuple[str, str, Spent]]:
    """Of every recipe and point that it has."""
    found = [(recipe, point, results.cost(recipe, point)) for recipe in results.recipes for point in results.points]
    known = [(recipe, point, cost) for recipe, point, cost in found if cost is not None]
    return sorted(known, key=lambda each: (results.recipes.index(each[0]), each[2].macs))


def _shares(cost: Spent) -> str:
    return ", ".join(f"{name}: {100 * share:.0f} %" for name, share in cost.shares.items() if share >= 0.005)
