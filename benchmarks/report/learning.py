"""What the page draws of learning curves: a panel a recipe, a line an operating point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.analysis.ablation import shown_name
from benchmarks.analysis.curves import Curve, Lines, lines_of
from benchmarks.analysis.results import Results
from benchmarks.report.spectrum import Json, rounded

MOST_LINES = 400
"""Of one table; a page with more would take long to open."""

MOST_POINTS = 120
"""Of one line; a panel is not much wider in pixels."""


def curves(results: Results) -> Json | None:
    """The curves of a table for the first evaluation set; None where no record has one.

    Of a table with too many lines the first recipes are taken, and "recipes" says how many have curves in all.
    """
    found = {number: lines_of(results, recipe) for number, recipe in enumerate(results.recipes)}
    found = {number: lines for number, lines in found.items() if lines}
    if not found:
        return None
    chosen = _as_many_as_fit(found)
    drawn = [curve for lines in chosen.values() for of_point in lines.values() for curve in of_point]
    over = "interquartile mean and range" if results.by_iqm(results.primary.name) else "mean ± standard deviation"
    steps: dict[tuple[float, ...], int] = {}
    panels = [
        {
            "recipe": number,
            "lines": [_line(curve, results.points.index(p), steps) for p, of in lines.items() for curve in of],
        }
        for number, lines in chosen.items()
    ]
    return {
        "axis": f"{shown_name(results.primary)} on {results.first.eval_sets[0]}",
        "steps": [list(x) for x in steps],
        "stepUnit": results.first.step_unit,
        "spread": over if any(curve.spread is not None for curve in drawn) else "",
        "thinned": any(len(curve.steps) > MOST_POINTS for curve in drawn),
        "recipes": len(found),
        "panels": panels,
    }


def _as_many_as_fit(found: Mapping[int, Lines]) -> dict[int, Lines]:
    chosen: dict[int, Lines] = {}
    lines = 0
    for number, of_recipe in found.items():
        lines += sum(len(curves) for curves in of_recipe.values())
        if chosen and lines > MOST_LINES:
            break
        chosen[number] = of_recipe
    return chosen


def _line(curve: Curve, point: int, steps: dict[tuple[float, ...], int]) -> list[Any]:
    """[number of the point, which of the steps, values] and, where seeds spread, the lower and the upper end."""
    places = np.unique(np.linspace(0, len(curve.steps) - 1, min(len(curve.steps), MOST_POINTS)).round().astype(int))
    x = tuple(rounded(step) for step in curve.steps[places])
    ends = [] if curve.spread is None else [[rounded(v) for v in end[places]] for end in curve.spread]
    return [point, steps.setdefault(x, len(steps)), [rounded(v) for v in curve.values[places]], *ends]
