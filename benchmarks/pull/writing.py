"""What was measured of recipes, as a table and a figure with its finding."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.analysis.ablation import shown_name
from benchmarks.analysis.figures import STYLE, image_files, line_style, make_logarithmic
from benchmarks.analysis.grid import Grid, markdown
from benchmarks.pull.measuring import Pull, Pulled
from tasks.task import Metric

MEANS = ("cosine", "agreement_of_data", "agreement_of_students")
"""What a table shows the mean of, over a training."""
PANELS = {
    "ratio": "norm: students over data",
    "cosine": "cosine between them",
    "agreement_of_data": "how steps agree: data",
    "agreement_of_students": "how steps agree: students",
}
"""What a figure shows of each step."""


def _parts(pulls: Sequence[Pull]) -> dict[str, Sequence[Pull]]:
    """The first step, the first half after it, and the second half."""
    half = (len(pulls) + 1) // 2
    parts = {"at the first step": pulls[:1], "first half": pulls[1:half], "second half": pulls[half:]}
    return {name: part for name, part in parts.items() if part}


def written(found: Sequence[Pulled], metric: Metric, about: str) -> dict[str, bytes | str]:
    """What is written of the recipes, by file name."""
    means = [name for name in MEANS if getattr(found[0].pulls[0], name) is not None]
    head = ["recipe", *(f"pull {name}" for name in _parts(found[0].pulls)), *(name.replace("_", " ") for name in means)]
    head += [f"{shown_name(metric)} at {point}" for point in found[0].scores]
    rows = [
        [_label(one, found), *(f"{_middle(part):.2g}" for part in _parts(one.pulls).values())]
        + [f"{_mean(one, name):.2f}" for name in means]
        + [f"{score:.2f}" for score in one.scores.values()]
        for one in found
    ]
    finding = _finding(found, metric)
    grid = Grid("Gradient of the students over that of the data (medians)", head, rows)
    tidy = pd.DataFrame([{"recipe": one.recipe, "seed": one.seed} | p.model_dump() for one in found for p in one.pulls])
    files = {f"figure.{kind}": image for kind, image in drawn(found, finding).items()}
    return files | {
        "table.md": f"# {finding}\n\n{about}\n\n{markdown(grid)}\n",
        "table.csv": tidy.to_csv(index=False),
    }


def _finding(found: Sequence[Pulled], metric: Metric) -> str:
    """The pull of the recipe that ends best at full width beside that of the one that ends worst."""
    ordered = sorted(found, key=lambda one: one.at_full_width, reverse=metric.better == "higher")
    told = []
    for one in dict.fromkeys((0, len(ordered) - 1)):
        recipe = ordered[one]
        *_, late = _parts(recipe.pulls).values()
        pull = f"its students pull {_middle(late):.2g} times as hard as the data"
        end = f"{recipe.at_full_width:.2f} {metric.unit}".rstrip()
        told.append(f"'{_label(recipe, found)}' ends at {end}, where {pull}")
    return "; ".join(told)


def _middle(pulls: Sequence[Pull]) -> float:
    return float(pd.Series([pull.ratio for pull in pulls]).median())


def _mean(one: Pulled, name: str) -> float:
    return float(pd.Series([getattr(pull, name) for pull in one.pulls]).mean())


def drawn(found: Sequence[Pulled], finding: str) -> dict[str, bytes]:
    """The ratio of the gradients, the cosine between them and, where measured, how they agree, over the training."""
    shown = {name: title for name, title in PANELS.items() if getattr(found[0].pulls[0], name) is not None}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.3 * len(shown), 4.2), layout="constrained")
        panels = dict(zip(shown, figure.subplots(1, len(shown)), strict=True))
        for number, one in enumerate(found):
            steps, style = [pull.step for pull in one.pulls], line_style(number)
            for name, panel in panels.items():
                label = _label(one, found) if name == "ratio" else None
                panel.plot(steps, _smooth([getattr(pull, name) for pull in one.pulls]), label=label, **style)
        make_logarithmic(panels["ratio"], "y")
        panels["ratio"].axhline(1, color="0.45", linestyle=":", linewidth=1)
        panels["cosine"].axhline(0, color="0.45", linestyle=":", linewidth=1)
        for name, panel in panels.items():
            panel.set_title(shown[name], fontsize=9)
            panel.set_xlabel("step")
        figure.legend(loc="outside lower center", ncols=min(3, len(found)), frameon=False, fontsize=8)
        figure.suptitle("\n".join(textwrap.wrap(finding, 95)), fontsize=9)
        return image_files(figure)


def _smooth(values: Sequence[float]) -> Sequence[float]:
    """The running median of five."""
    return [float(value) for value in pd.Series(values).rolling(5, center=True, min_periods=1).median()]


def _label(one: Pulled, found: Sequence[Pulled]) -> str:
    """Its recipe, and its seed where there are several."""
    return one.recipe if len({other.seed for other in found}) == 1 else f"{one.recipe}, seed {one.seed}"
