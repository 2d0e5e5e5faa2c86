"""The figure of an ablation: metric against multiply-adds, a panel an evaluation set."""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from benchmarks.analysis.ablation import shown_name
from benchmarks.analysis.aggregates import CONFIDENCE
from benchmarks.analysis.results import Results, Summary
from benchmarks.records.record import MetricInfo

WIDTH_COLOURS = matplotlib.colormaps["viridis"]
WIDTH_SCALE = Normalize(0.0, 1.0)  # one scale for widths in every figure
OTHER_COLOURS = ("#d62728", "#ff7f0e", "#e377c2", "#8c564b")  # of plans and rules, which have no width
MARKERS = "osD^vPX*<>"
LINES = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")
STROKES = ("-", "-.")  # the second where colours come again
LETTERS = 14  # of a legend, in an inch
LINE = 0.19  # inches of a row of a legend
ROWS = 5  # of a legend, for which there is room in a figure of HEIGHT inches
HEIGHT = 4.2
STYLE: Any = {
    "font.size": 9,
    "svg.hashsalt": "slimlib",
    "svg.fonttype": "path",
    "text.parse_math": False,  # names may hold a dollar
    "axes.spines.top": False,
    "axes.spines.right": False,
}
LOGARITHMIC = 30
"""Where the largest network costs more than so many times the smallest, the axis is logarithmic."""


def figure(results: Results, finding: str) -> dict[str, bytes]:
    """The figure as {"png": .., "svg": ..}; the same records give the same bytes on the same machine."""
    sets, stages = results.first.eval_sets, _stages(results)
    across, down = (len(stages), 1) if len(sets) == 1 else (len(sets), len(stages))
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(1.2 + 3.9 * across, HEIGHT), layout="constrained")
        grid = drawn.subplots(down, across, squeeze=False)
        panels: Sequence[Axes] = list(grid.flat)
        for panel, (stage, dataset) in zip(panels, itertools.product(stages, sets), strict=True):
            _panel(panel, results, dataset, stages[stage])
            panel.set_title(f"{dataset}, {stage}" if stage else dataset, fontsize=9)
        for panel in grid[:, 0]:
            panel.set_ylabel(axis_label(results, results.primary))
        labelled = _legend(panels, list(map(results.titled, results.recipes)))
        columns = int(LETTERS * drawn.get_figwidth() / (max(map(len, labelled), default=0) + 8))
        columns = max(1, min(len(labelled), columns, 2 + 2 * across))
        rows = -(-len(labelled) // columns)
        drawn.set_figheight(HEIGHT * down + LINE * max(0, rows - ROWS))
        if labelled:
            drawn.legend(labelled.values(), labelled, loc="outside lower center", ncols=columns, frameon=False)
        if any(results.width(point) is not None for point in results.points):
            colours = ScalarMappable(WIDTH_SCALE, WIDTH_COLOURS)
            drawn.colorbar(colours, ax=panels, label="width", fraction=0.04, pad=0.02)
        drawn.suptitle("\n".join(textwrap.wrap(finding, 8 + 46 * across)), fontsize=10)
        return image_files(drawn)


def _stages(results: Results) -> dict[str, list[str]]:
    """The recipes of each panel: those whose plans were trained on apart, with individual networks beside each."""
    found = dict.fromkeys(filter(None, map(results.stage, results.recipes)))
    if len(found) < 2:
        return {"": results.recipes}
    return {stage: [r for r in results.recipes if results.stage(r) in ("", stage)] for stage in found}


def _legend(panels: Sequence[Axes], recipes: Sequence[str]) -> dict[str, Any]:
    """Label -> line: all of the first panel, and recipes that are only in later ones."""
    found: dict[str, Any] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        found |= {
            label: line
            for line, label in zip(handles, labels, strict=True)
            if label not in found and (panel is panels[0] or label in recipes)
        }
    return found


def axis_label(results: Results, metric: MetricInfo) -> str:
    """A metric and its unit; where it is a return, also what is drawn of the seeds."""
    name = f"{shown_name(metric)} ({metric.unit})" if metric.unit else shown_name(metric)
    if results.by_iqm(metric.name):
        return f"IQM of {name}, {100 * CONFIDENCE:g} % bootstrap interval"
    several = results.samples(metric.name) and len(results.seeds) > 1
    return f"{name} (± standard deviation over seeds)" if several else name


def image_files(drawn: Figure) -> dict[str, bytes]:
    """A figure as PNG and SVG, without dates and random ids."""
    files = {}
    with matplotlib.rc_context(STYLE):
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            buffer = io.BytesIO()
            drawn.savefig(buffer, format=kind, dpi=150, metadata=metadata)
            files[kind] = buffer.getvalue()
    return files


def _panel(panel: Axes, results: Results, dataset: str, recipes: Sequence[str]) -> None:
    """Draw the recipes; where a recipe lacks seeds, which its name tells, the mean over those that it has."""
    metric = results.primary
    costs = [cost.macs for r in results.recipes for p in results.points if (cost := results.cost(r, p)) is not None]
    smallest, largest = min(costs, default=0), max(costs, default=0)
    logarithmic = 0 < LOGARITHMIC * smallest < largest
    size, unit = axis_unit(smallest if logarithmic else largest)
    middles: list[float] = []
    of_colours = list(dict.fromkeys(map(results.untrained, results.recipes)))
    for recipe in recipes:
        measured = []
        for point in results.points:
            cost = results.cost(recipe, point)
            summary = results.summary(recipe, point, dataset, metric.name, partly=True)
            if cost is not None and summary is not None:
                measured.append((cost.macs / size, summary, point))
        middles += [summary.middle for _, summary, _ in measured]
        if measured:
            _line(panel, results, recipe, sorted(measured, key=lambda one: one[0]), of_colours)
    baselines(panel, results, dataset, middles)
    panel.set_xlabel(f"multiply-adds{unit}")
    panel.grid(alpha=0.25, linewidth=0.5)
    if logarithmic:
        make_logarithmic(panel)


def make_logarithmic(panel: Axes, which: Literal["x", "y"] = "x") -> None:
    """An axis over decades, told in plain numbers."""
    panel.set(**{f"{which}scale": "log"})
    axis = panel.xaxis if which == "x" else panel.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:,.12g}"))


def axis_unit(largest: float) -> tuple[float, str]:
    """What the numbers of an axis are divided by, and how its label says so."""
    return (1e6, " (millions)") if largest >= 1e6 else (1e3, " (thousands)") if largest >= 1e3 else (1.0, "")


def point_colour(results: Results, point: str) -> Any:
    """A width's colour is the same in every figure; plans and rules have colours of their own."""
    width = results.width(point)
    if width is not None:
        return WIDTH_COLOURS(WIDTH_SCALE(width))
    others = [other for other in results.points if results.width(other) is None]
    return OTHER_COLOURS[others.index(point) % len(OTHER_COLOURS)]


def baselines(panel: Axes, results: Results, dataset: str, values: Sequence[float]) -> None:
    """A dotted line for each, or only a word in the legend where it lies so far away that it would flatten the others.

    Args:
        values: those that the panel shows.
    """
    for name, scores in results.baselines.items():
        value = scores.get(dataset, {}).get(results.primary.name)
        if value is None:
            continue
        if near(value, values):
            panel.axhline(value, color="0.45", linestyle=":", linewidth=1.2, label=name)
        else:
            panel.plot([], [], color="0.45", linestyle=":", linewidth=1.2, label=f"{name} ({value:g})")


def near(value: float, values: Sequence[float]) -> bool:
    """Whether an axis with all of them still shows how the values differ."""
    span = max(values) - min(values) if values else 0.0
    return not span or min(values) - 1.5 * span <= value <= max(values) + 1.5 * span


def line_style(number: int, *, individual: bool = False) -> dict[str, Any]:
    """How the line of a recipe is drawn; that of individual networks is black and dashed, in every figure."""
    colour, stroke = LINES[number % len(LINES)], STROKES[number // len(LINES) % len(STROKES)]
    return {"color": "black" if individual else colour, "linestyle": "--" if individual else stroke, "linewidth": 1.3}


def _line(
    panel: Axes, results: Results, recipe: str, measured: Sequence[tuple[float, Summary, str]], named: Sequence[str]
) -> None:
    """A recipe's points; it has the colour and the name of the one that ends where it trains the plans on."""
    name = results.untrained(recipe)
    number = named.index(name)
    x = [cost for cost, *_ in measured]
    middle = [summary.middle for _, summary, _ in measured]
    style, marker = line_style(number, individual=results.individual(recipe)), MARKERS[number % len(MARKERS)]
    colour = style["color"]
    panel.plot(
        x,
        middle,
        marker=marker,
        markersize=6,
        markerfacecolor="white",
        markeredgecolor=colour,
        label=results.titled(name),
        **style,
    )
    faces = [point_colour(results, point) for *_, point in measured]
    panel.scatter(x, middle, c=faces, marker=marker, s=36, edgecolors=colour, zorder=3)
    for cost, summary, point in measured:
        if results.width(point) is None and results.of_one_recipe(point):
            panel.annotate(
                point, (cost, summary.middle), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=7
            )
    if any(summary.below or summary.above for _, summary, _ in measured):
        low = [summary.middle - summary.below for _, summary, _ in measured]
        high = [summary.middle + summary.above for _, summary, _ in measured]
        panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
