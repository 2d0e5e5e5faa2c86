"""The figure of the plans that were found: channels of each group of layers over depth, a line a budget."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.analysis.figures import OTHER_COLOURS, STYLE, image_files
from benchmarks.analysis.results import Results

COLUMNS = 3


def plans_figure(results: Results) -> dict[str, bytes]:
    """The figure as {"png": .., "svg": ..}; empty where no plans were searched."""
    recipes = [recipe for recipe in results.recipes if _is_search(results, recipe)]
    uniform = next((r for r in recipes if results.of(r)[0].training["search"] == "uniform"), None)
    shown = [recipe for recipe in recipes if recipe != uniform] or recipes
    if not shown:
        return {}
    rows = -(-len(shown) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(3.4 * min(len(shown), COLUMNS) + 0.6, 2.4 * rows + 1.1), layout="constrained")
        grid = drawn.subplots(rows, min(len(shown), COLUMNS), squeeze=False, sharex=True, sharey=True)
        panels: Sequence[Axes] = list(grid.flat)
        for panel, recipe in zip(panels, shown, strict=False):
            _panel(panel, results, recipe, uniform)
        for panel in panels[len(shown) :]:
            panel.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        seeds = "a line each seed" if len(results.seeds) > 1 else "one seed"
        drawn.suptitle(f"Channels of the plans that were found, {seeds}; dashed: uniform widths", fontsize=10)
        for panel in panels[: len(shown)][-grid.shape[1] :]:  # the lowest of each column
            panel.set_xlabel("group of layers, from the input on", fontsize=8)
            panel.tick_params(labelbottom=True)
        drawn.supylabel("channels", fontsize=9)
        return image_files(drawn)


def _is_search(results: Results, recipe: str) -> bool:
    """Whether a recipe searches plans that differ from those of others: training on does not change them."""
    training = results.of(recipe)[0].training
    return training.get("search") is not None and not training.get("retrain")


def _panel(panel: Axes, results: Results, recipe: str, uniform: str | None) -> None:
    for number, point in enumerate(results.points):
        colour = OTHER_COLOURS[number % len(OTHER_COLOURS)]
        for seed, plan in enumerate(results.channels(recipe, point)):
            label = point if seed == 0 else None
            panel.step(range(1, len(plan) + 1), plan, where="mid", color=colour, linewidth=1.3, label=label)
        for plan in results.channels(uniform, point)[:1] if uniform else ():
            places = range(1, len(plan) + 1)
            panel.step(places, plan, where="mid", color=colour, linewidth=0.9, linestyle="--", alpha=0.7)
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_title(recipe, fontsize=9)
    panel.grid(alpha=0.25, linewidth=0.5)
