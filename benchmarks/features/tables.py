"""What was measured, in tables and in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean

import pandas as pd
from torch import Tensor

from benchmarks.analysis.grid import Grid
from benchmarks.features.importance import POSITIONS, curve, first_quarter
from benchmarks.features.looking import Looked

COLUMNS = ("recipe", "seed", "measure", "layer", "place", "width", "other_width", "value")


def by_recipe(looked: Sequence[Looked]) -> dict[str, list[Looked]]:
    """The networks of each recipe, one a seed."""
    found: dict[str, list[Looked]] = {}
    for one in looked:
        found.setdefault(one.trained.recipe.name, []).append(one)
    return found


def shares_of(looked: Sequence[Looked]) -> dict[str, dict[str, list[Tensor]]]:
    """Measure -> recipe -> the curve over channel order of each seed, where there is one."""
    found: dict[str, dict[str, list[Tensor]]] = {}
    for one in looked:
        for measure, shares in one.curves().items():
            if not shares.isnan().any():
                found.setdefault(measure, {}).setdefault(one.trained.recipe.name, []).append(shares)
    return found


def quarters(looked: Sequence[Looked]) -> dict[str, dict[str, list[float]]]:
    """Measure -> recipe -> what the first quarter of the channels has of it, in %, a value a seed."""
    return {
        measure: {recipe: [first_quarter(shares) for shares in seeds] for recipe, seeds in of.items()}
        for measure, of in shares_of(looked).items()
    }


def tidy(looked: Sequence[Looked]) -> str:
    """As CSV: the shares of all groups over channel order, the first quarter's of each group, and all correlations."""
    rows = (dict(zip(COLUMNS, row, strict=True)) for one in looked for row in _rows(one))
    return str(pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, lineterminator="\n", float_format="%.4g"))


def _rows(one: Looked) -> Iterator[tuple[object, ...]]:
    who = one.trained.recipe.name, one.trained.seed
    for measure, shares in one.curves().items():
        for place, share in enumerate(shares.tolist()):
            yield *who, f"share of the {measure}", None, place / POSITIONS, None, None, share
    for measure, groups in one.importance.items():
        for group, units in zip(one.groups, groups, strict=True):
            yield *who, f"first quarter's % of the {measure}", group, None, None, None, first_quarter(curve([units]))
    widths = one.trained.widths
    for layer, matrix in one.alike.items():
        for i, width in enumerate(widths):
            for j in range(i + 1, len(widths)):
                yield *who, "correlation", layer, None, width, widths[j], float(matrix[i, j])


def grids(looked: Sequence[Looked]) -> list[Grid]:
    """The first quarter's part of each measure, and how alike responses are between the narrowest and the widest."""
    recipes = by_recipe(looked)
    found = quarters(looked)
    head = ["recipe", *found]
    rows = [[recipe, *(_number(of.get(recipe, []), ".0f") for of in found.values())] for recipe in recipes]
    made = [Grid("What the first quarter of the channels has, in % (25: all channels alike)", head, rows)]
    parts: Mapping[str, Callable[[Sequence[float]], float]] = {
        "all layers": mean_of, "first layer": lambda of: of[0], "last layer": lambda of: of[-1]
    }  # fmt: skip
    ends = {r: [list(one.ends_alike().values()) for one in of] for r, of in recipes.items() if of[0].alike}
    rows = [
        [recipe, *(_number([part(s) for s in seeds], ".2f") for part in parts.values())]
        for recipe, seeds in ends.items()
    ]
    title = "Correlation of a channel's responses at its network's narrowest and largest width"
    return [*made, Grid(title, ["recipe", *parts], rows)] if rows else made


def mean_of(values: Sequence[float]) -> float:
    """The mean of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


def _number(values: Sequence[float], form: str) -> str:
    """The mean over seeds, and where there are several the lowest and the highest."""
    if math.isnan(mean_of(values)):
        return "-"
    spread = f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else ""
    return f"{mean_of(values):{form}}{spread}"


def listed(values: Mapping[str, Sequence[float]], form: str, unit: str = "") -> str:
    """`31 % (individual), 52 % (sandwich)`."""
    return ", ".join(f"{mean_of(of):{form}}{unit} ({recipe})" for recipe, of in values.items())
