"""Learning curves: the metric in the course of the training, a panel a recipe, a line an operating point.

The last point of a curve is the final score, which may be over more episodes than the points before it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmarks.analysis.ablation import shown_name
from benchmarks.analysis.aggregates import middle_mean
from benchmarks.analysis.figures import (
    STYLE,
    WIDTH_COLOURS,
    WIDTH_SCALE,
    axis_unit,
    baselines,
    image_files,
    point_colour,
)
from benchmarks.analysis.results import SPREAD_SEEDS, Results

MOST_COLUMNS = 4
CROWDED = 6
"""A panel with more operating points than these shows neither spread nor individual networks."""

DASHED = (0, (3, 1.5))
SLIMMABLE: Mapping[str, Any] = {"linewidth": 1.5}
INDIVIDUAL: Mapping[str, Any] = {"linewidth": 1.5, "linestyle": DASHED}
# individual networks in the panels of others
BESIDE: Mapping[str, Any] = {"linewidth": 0.9, "linestyle": DASHED, "alpha": 0.7}


@dataclass(frozen=True)
class Curve:
    """A line and the spread around it over all seeds, or one seed alone."""

    steps: np.ndarray  # [P]
    values: np.ndarray  # [P]
    spread: np.ndarray | None = None  # [2, P]: the lower and the upper end


Lines = Mapping[str, Sequence[Curve]]
"""Operating point -> the mean over seeds, or a line for each of them."""


def curves_figure(results: Results, finding: str) -> dict[str, bytes]:
    """The figure as {"png": .., "svg": ..}, for the first evaluation set; empty where no record has a curve."""
    recipes = {recipe: lines_of(results, recipe) for recipe in results.recipes}
    recipes = {recipe: lines for recipe, lines in recipes.items() if lines}
    if not recipes:
        return {}
    rows = math.ceil(len(recipes) / MOST_COLUMNS)
    columns = math.ceil(len(recipes) / rows)
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(1.8 + 2.6 * max(columns, 2), 2.0 + 2.2 * rows), layout="constrained")
        panels = _panels(drawn, rows, columns, len(recipes))
        unit = _draw(panels, results, recipes)
        for panel in panels[-columns:]:
            panel.set_xlabel(f"{results.first.step_unit}{unit}")
        for panel in panels[::columns]:
            panel.set_ylabel(f"{shown_name(results.primary)} on {results.first.eval_sets[0]}")
        handles = _legend(results, recipes, panels[0])
        drawn.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), columns + 1), frameon=False)
        widths = [width for point in results.points if (width := results.width(point)) is not None]
        ticks = widths if len(widths) <= CROWDED else None
        scale = ScalarMappable(WIDTH_SCALE, WIDTH_COLOURS)
        drawn.colorbar(scale, ax=panels, label="width", ticks=ticks, format="{x:g}", fraction=0.04, pad=0.02)
        drawn.suptitle("\n".join(textwrap.wrap(finding, int(10 * drawn.get_figwidth()))), fontsize=10)
        return image_files(drawn)


def lines_of(results: Results, recipe: str) -> Lines:
    """A recipe's mean over seeds at each operating point; each seed's line where they are too few or one is missing.

    The mean has the standard deviation around it; with seeds enough it is the interquartile mean, with that range.
    """
    dataset, metric = results.first.eval_sets[0], results.primary.name
    found = {point: results.curves(recipe, point, dataset, metric) for point in results.points}
    return {point: _lines(results, by_seed) for point, by_seed in found.items() if by_seed}


def _lines(results: Results, by_seed: Mapping[int, Sequence[Sequence[float]]]) -> list[Curve]:
    curves = [Curve(*np.asarray(by_seed[seed], dtype=float).T) for seed in sorted(by_seed)]
    if len(curves) < max(SPREAD_SEEDS, len(results.seeds)):
        return curves
    steps, values = aligned(curves)
    if not len(steps):
        return curves
    if results.by_iqm(results.primary.name):
        return [Curve(steps, middle_mean(values, axis=0), np.quantile(values, [0.25, 0.75], axis=0))]
    mean, std = values.mean(axis=0), values.std(axis=0, ddof=1)
    return [Curve(steps, mean, np.stack([mean - std, mean + std]))]


def aligned(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """The curves of several seeds at common steps.

    With as many points each, the n-th of one belongs to the n-th of the others, at the mean of their steps. Else the
    steps are those of the shortest curve that lie within all of them, and between its points a curve is straight.

    Returns:
        Steps [P], and values [seeds, P].
    """
    if len({len(curve.steps) for curve in curves}) == 1:
        return np.mean([curve.steps for curve in curves], axis=0), np.stack([curve.values for curve in curves])
    steps = min(curves, key=lambda curve: len(curve.steps)).steps
    first, last = max(curve.steps[0] for curve in curves), min(curve.steps[-1] for curve in curves)
    steps = steps[(steps >= first) & (steps <= last)]
    return steps, np.stack([np.interp(steps, curve.steps, curve.values) for curve in curves])


def _panels(drawn: Figure, rows: int, columns: int, count: int) -> list[Axes]:
    """As many panels as there are recipes; the lowest of each column has the steps below it."""
    grid: list[Axes] = list(drawn.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten())
    for unused, above in zip(grid[count:], grid[count - columns :], strict=False):
        unused.remove()
        above.tick_params(labelbottom=True)
    return grid[:count]


def _draw(panels: Sequence[Axes], results: Results, recipes: Mapping[str, Lines]) -> str:
    """Draw every panel; returns the unit of the steps."""
    curves = [curve for lines in recipes.values() for of_point in lines.values() for curve in of_point]
    size, unit = axis_unit(max(curve.steps[-1] for curve in curves))
    values = [value for curve in curves for value in curve.values]
    individual = next((lines for recipe, lines in recipes.items() if results.individual(recipe)), {})
    for panel, (recipe, lines) in zip(panels, recipes.items(), strict=True):
        _plot(panel, results, lines, size, INDIVIDUAL if results.individual(recipe) else SLIMMABLE)
        if len(lines) <= CROWDED:
            _shade(panel, results, lines, size)
            if not results.individual(recipe):
                _plot(panel, results, {p: individual[p] for p in lines if p in individual}, size, BESIDE)
        baselines(panel, results, results.first.eval_sets[0], values)
        panel.set_title(results.titled(recipe), fontsize=9)
        panel.grid(alpha=0.25, linewidth=0.5)
    return unit


def _plot(panel: Axes, results: Results, lines: Lines, size: float, style: Mapping[str, Any]) -> None:
    for point, curves in lines.items():
        for curve in curves:
            panel.plot(curve.steps / size, curve.values, color=point_colour(results, point), **style)


def _shade(panel: Axes, results: Results, lines: Lines, size: float) -> None:
    for point, curves in lines.items():
        for curve in curves:
            if curve.spread is not None:
                colour = point_colour(results, point)
                panel.fill_between(curve.steps / size, *curve.spread, color=colour, alpha=0.1, linewidth=0)


def _legend(results: Results, recipes: Mapping[str, Lines], panel: Axes) -> list[Artist]:
    """What styles stand for, and the colours that stand for no width."""
    others = dict.fromkeys(p for lines in recipes.values() for p in lines if results.width(p) is None)
    handles: list[Artist] = [Line2D([], [], color=point_colour(results, point), label=point) for point in others]
    for individual, label, style in (
        (False, "one network at all widths", SLIMMABLE),
        (True, "individual networks", INDIVIDUAL),
    ):
        if any(results.individual(recipe) == individual for recipe in recipes):
            handles.append(Line2D([], [], color="0.3", label=label, **style))
    shaded = [lines for lines in recipes.values() if len(lines) <= CROWDED]
    if any(curve.spread is not None for lines in shaded for curves in lines.values() for curve in curves):
        over = "interquartile mean and range" if results.by_iqm(results.primary.name) else "mean ± standard deviation"
        handles.append(Patch(color="0.3", alpha=0.2, linewidth=0, label=f"{over} over seeds"))
    return [*handles, *panel.get_legend_handles_labels()[0]]
