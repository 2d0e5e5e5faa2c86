"""What a table shows, in one honest line."""

from __future__ import annotations

import statistics

from benchmarks.analysis.ablation import decimals
from benchmarks.analysis.plans import chooses, verdict
from benchmarks.analysis.results import SPREAD_SEEDS, Results, Summary, joint_spread

ALIKE = 1.25  # times as much, at most, cost recipes that are compared at an operating point


def finding(results: Results) -> str:
    """Which recipe is best at the cheapest and at the costliest operating point, and whether the seeds can tell.

    Compares, on the first evaluation set and metric, recipes that have every seed and cost about the same there; where
    no two of them share a point, each is told by itself. With three seeds or more, a lead is called one only where it
    exceeds the two recipes' joint spread. Where recipes choose channels, it is told which beat their baseline; where
    they choose a width for each input, they are compared at mean costs.
    """
    if chooses(results):
        return ". ".join([verdict(results), *_seeds(results)])
    ranked = [point for point in results.points if _ranking(results, point)]
    points = [point for point in ranked if len(_ranking(results, point)) >= min(2, len(results.recipes))]
    if not points and not _seeds_are_missing(results):
        points = ranked
    if not points:
        return f"{results.first.ablation} on {results.first.dataset}: records are missing, nothing to compare"
    points = [point for point in points if results.kind(point) == "per-input"] or points
    ends = list(dict.fromkeys((points[0], points[-1])))
    return ". ".join([*(_at(results, point) for point in ends), *_seeds(results)])


def _seeds_are_missing(results: Results) -> bool:
    return any(len(results.of(recipe)) < len(results.seeds) for recipe in results.recipes)


def _ranking(results: Results, point: str) -> list[tuple[str, Summary]]:
    metric, dataset = results.primary, results.first.eval_sets[0]
    costs = {r: cost.macs for r in results.recipes if (cost := results.cost(r, point)) is not None}
    usual = statistics.median_low(costs.values()) if costs else 0.0
    summaries = {r: results.summary(r, point, dataset, metric.name) for r in costs if _about(costs[r], usual)}
    complete = [(r, summary) for r, summary in summaries.items() if summary is not None]
    sign = -1 if metric.better == "higher" else 1
    return sorted(complete, key=lambda item: sign * item[1].middle)


def _about(cost: float, usual: float) -> bool:
    """A recipe may keep layers full at a width, or spend less than it may: it is then no rival of the others."""
    return usual <= ALIKE * cost and cost <= ALIKE * usual


def _at(results: Results, point: str) -> str:
    ranking = _ranking(results, point)
    places, unit = decimals(results.primary), results.primary.unit
    label = results.label(point)
    at = f"IQM at {label}" if results.by_iqm(results.primary.name) else f"{label[0].upper()}{label[1:]}"
    (name, best), rest = ranking[0], ranking[1:]
    value = f"{best.middle:.{places}f} {unit}".strip()
    if not rest:
        return f"{at}: {name} {value}"
    second, other = rest[0]
    leads = [abs(best.middle - summary.middle) for _, summary in rest]
    lead, level = leads[0], sum(lead < 0.5 * 10**-places for lead in leads)
    if level:
        return f"{at}: {name} and {second if level == 1 else f'{level} others'} level at {value}"
    if len(results.seeds) >= SPREAD_SEEDS and lead <= joint_spread(best, other):
        return f"{at}: {name} ({value}) and {second} are within the seeds' spread"
    return f"{at}: {name} {value}, {lead:.{places}f} ahead of {second}"


def _seeds(results: Results) -> list[str]:
    count = len(results.seeds)
    return [] if count >= SPREAD_SEEDS else ["One seed only" if count == 1 else "Two seeds only"]
