"""Whether choosing channels pays: each way of doing it beside its baseline, seed by seed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from benchmarks.analysis.ablation import decimals, shown_name
from benchmarks.analysis.aggregates import CONFIDENCE
from benchmarks.analysis.grid import Grid
from benchmarks.analysis.results import SPREAD_SEEDS, Results

BASELINES = {"order": ("trained", "channels as trained"), "search": ("random", "random plans")}
"""Key of a recipe -> its value in the recipe that others have to beat, and what that is called."""
AFTER = ("retrain", "retrained")
"""Keys of recipes that are alike in a recipe and its baseline."""


@dataclass(frozen=True)
class Lead:
    """By how much a recipe is better than its baseline at an operating point, in the metric's unit.

    low, high: the ends of the paired interval over seeds; none with fewer than three.
    fair: the baseline was scored with as many plans, or more.
    """

    recipe: str
    point: str
    value: float
    low: float | None
    high: float | None
    fair: bool

    @property
    def better(self) -> bool:
        """Whether the seeds can tell, and the baseline had as many evaluations."""
        return self.fair and self.low is not None and self.low > 0

    @property
    def worse(self) -> bool:
        """Whether the seeds can tell that it is worse."""
        return self.high is not None and self.high < 0

    def text(self, places: int) -> str:
        """For reading: `+0.31 [0.02, 0.60]`; with a star where the baseline had fewer evaluations."""
        interval = "" if self.low is None else f" [{self.low:.{places}f}, {self.high:.{places}f}]"
        return f"{self.value:+.{places}f}{interval}{'' if self.fair else ' *'}"


def chooses(results: Results) -> bool:
    """Whether recipes choose channels, and there is a baseline for them."""
    return any(_baseline(results, recipe) is not None for recipe in results.recipes)


def leads(results: Results) -> Iterator[Lead]:
    """Of all recipes that have a baseline, at each operating point, on the first evaluation set and metric."""
    for recipe in results.recipes:
        baseline = _baseline(results, recipe)
        for point in results.points if baseline is not None and baseline != recipe else ():
            lead = _lead(results, recipe, str(baseline), point)
            if lead is not None:
                yield lead


def _baseline(results: Results, recipe: str) -> str | None:
    """The recipe that a recipe has to beat: of the same training, but for the one key."""
    own = results.of(recipe)[0].training
    key = next((key for key in BASELINES if own.get(key) is not None), None)
    if key is None:
        return None
    for other in results.recipes:
        training = results.of(other)[0].training
        alike = all(training.get(one) == own.get(one) for one in AFTER)
        plain = key != "order" or training.get("search") == "uniform"
        if training.get(key) == BASELINES[key][0] and alike and plain and (key == "order" or not training.get("order")):
            return other
    return None


def _lead(results: Results, recipe: str, baseline: str, point: str) -> Lead | None:
    metric, dataset = results.primary, results.first.eval_sets[0]
    ours, theirs = (results.cell(name, point, dataset, metric.name).values for name in (recipe, baseline))
    if not ours or set(ours) != set(theirs) or set(ours) != set(results.seeds):
        return None
    sign = 1 if metric.better == "higher" else -1
    gains = [sign * (ours[seed] - theirs[seed]) for seed in sorted(ours)]
    mean, reach = statistics.fmean(gains), None
    if len(gains) >= SPREAD_SEEDS:
        reach = float(stdtrit(len(gains) - 1, (1 + CONFIDENCE) / 2)) * statistics.stdev(gains) / len(gains) ** 0.5
    fair = results.evaluations(recipe) <= results.evaluations(baseline) or "order" in results.of(recipe)[0].training
    low, high = (None, None) if reach is None else (mean - reach, mean + reach)
    return Lead(recipe, point, mean, low, high, fair)


def verdict(results: Results) -> str:
    """Which recipes beat their baseline beyond what the seeds differ, in one honest line."""
    found = list(leads(results))
    what = _names_of_baselines(results)
    if len(results.seeds) < SPREAD_SEEDS:
        ahead = sum(lead.value > 0 for lead in found)
        return f"{ahead} of {len(found)} leads over {what} are above zero, too few seeds to tell"
    better, worse = [lead for lead in found if lead.better], [lead for lead in found if lead.worse]
    if not better:
        return f"None of {len(found)} comparisons beats {what} beyond the seeds' spread; {len(worse)} are worse"
    names = list(dict.fromkeys(lead.recipe for lead in better))
    best = max(better, key=lambda lead: lead.value)
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    most = f"at most {best.text(decimals(results.primary))} {results.primary.unit}".rstrip()
    return f"{shown} beat {what} in {len(better)} of {len(found)} comparisons ({most}); {len(worse)} are worse"


def plan_grids(results: Results) -> list[Grid]:
    """How far each recipe is ahead of its baseline, and how its plans were found."""
    if not chooses(results):
        return []
    metric, dataset = results.primary, results.first.eval_sets[0]
    cells = {(lead.recipe, lead.point): lead for lead in leads(results)}
    points = [point for point in results.points if any(key[1] == point for key in cells)]
    unit = f" ({metric.unit})" if metric.unit else ""
    interval = f", with the {100 * CONFIDENCE:g} % interval of the paired differences"
    title = (
        f"{shown_name(metric)}{unit} on {dataset}: ahead of {_names_of_baselines(results)}, positive is better"
        f"{interval if len(results.seeds) >= SPREAD_SEEDS else ''}; *: the baseline had fewer evaluations"
    )
    places = decimals(metric)
    compared = list(dict.fromkeys(recipe for recipe, _ in cells))
    rows = [
        [recipe, *(cells[recipe, p].text(places) if (recipe, p) in cells else "" for p in points)]
        for recipe in compared
    ]
    return [Grid(title, ["operating point", *points], rows), _found(results)]


def _found(results: Results) -> Grid:
    """The plans that each search has scored, and the held-out loss of those that it found."""
    searched = [r for r in results.recipes if results.evaluations(r) and not results.of(r)[0].training.get("retrain")]
    points = [point for point in results.points if any(results.held_out_loss(r, point) is not None for r in searched)]
    rows = [[recipe, f"{results.evaluations(recipe):.0f}", *_losses(results, recipe, points)] for recipe in searched]
    title = "Loss on the held-out part of the training data, by which plans were chosen"
    return Grid(title, ["operating point", "plans scored", *points], rows)


def _losses(results: Results, recipe: str, points: Sequence[str]) -> Iterator[str]:
    for point in points:
        loss = results.held_out_loss(recipe, point)
        yield "" if loss is None else f"{loss:.4f}"


def _names_of_baselines(results: Results) -> str:
    present = {results.of(b)[0].recipe: b for r in results.recipes if (b := _baseline(results, r)) is not None}
    keys = {key for name in present for key in BASELINES if results.of(name)[0].training.get(key) == BASELINES[key][0]}
    return " or ".join(BASELINES[key][1] for key in BASELINES if key in keys)
