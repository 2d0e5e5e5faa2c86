"""How a trained network is scored: BatchNorm statistics first, then cost and metrics at each operating point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import slimlib as slim
from slimlib.calibration import use_full_statistics
from slimlib.core.setting import slimming_of
from slimlib.core.width import Width, WidthRange
from slimlib.training.nonuniform import random_plan
from tasks.points import AS_IT_IS, OperatingPoint, PointResult, mean_at, name_of_width, result_at
from tasks.training.problem import Problem
from tasks.training.ranks import ALONE, Ranks
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingFailed, derive_seed

PLANS = 4
"""Random plans that a non-uniform test takes the mean over, at each width."""


def score(
    task: Problem,
    recipe: Recipe,
    net: nn.Module,
    width: float | None,
    *,
    seed: int,
    device: torch.device,
    ranks: Ranks = ALONE,
    points: Sequence[OperatingPoint] | None = None,
) -> list[PointResult]:
    """Score a trained network, leaving it in eval mode.

    Args:
        width: that an individual network was built for; None: a slimmable one, scored at all widths of the recipe.
        seed: of the recipe; decides the inputs of the calibration, and random plans.
        ranks: the processes that have the network and score it together; all get the same results.
        points: that a slimmable one is scored at, in place of those of the recipe.

    Raises:
        TrainingFailed: a score is not finite.
    """
    if width is not None:
        (result,) = ranks.first(lambda: measured(task, net, [AS_IT_IS]))
        return checked([replace(result, point=name_of_width(width), width=width)])
    generator = torch.Generator().manual_seed(derive_seed(seed, "plans"))
    points = recipe.points(task) if points is None else points
    tested = [_tested(recipe, net, point, generator) for point in points]
    every = [point for tests in tested for point in tests]
    calibrate(task, recipe, net, every, derive_seed(seed, "calibration"), device, ranks)
    results = iter(measured_together(task, net, every, ranks))
    found = [[next(results) for _ in tests] for tests in tested]
    return checked([mean_at(p, of) if len(of) > 1 else of[0] for p, of in zip(points, found, strict=True)])


def measured_together(
    task: Problem, net: nn.Module, points: Sequence[OperatingPoint], ranks: Ranks
) -> list[PointResult]:
    """What `measured` finds, each operating point by one of the ranks."""
    own = points[ranks.index :: ranks.count]
    found = ranks.gathered(lambda: measured(task, net, own) if own else [])
    return [found[i % ranks.count][i // ranks.count] for i in range(len(points))]


def measured(task: Problem, net: nn.Module, points: Sequence[OperatingPoint]) -> list[PointResult]:
    """Scores and cost of a network at operating points whose statistics are there; it is left in eval mode."""
    with torch.no_grad():
        scores = task.evaluate(net.eval(), points)
    device = next(net.parameters()).device
    example = example_on(task, device)
    return [result_at(point, point.spent(net, example), own) for point, own in zip(points, scores, strict=True)]


def example_on(task: Problem, device: torch.device) -> Any:
    """The task's example on a device."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), task.example())


def checked(results: list[PointResult]) -> list[PointResult]:
    """The results.

    Raises:
        TrainingFailed: a score is not finite.
    """
    for result in results:
        for eval_set, metric, value in _scores(result):
            if not math.isfinite(value):
                raise TrainingFailed(f"{metric} on {eval_set} is {value} at {result.label}")
    return results


def _scores(result: PointResult) -> Iterator[tuple[str, str, float]]:
    for eval_set, values in result.metrics.items():
        for metric, value in values.items():
            yield eval_set, metric, value


def _tested(recipe: Recipe, net: nn.Module, point: OperatingPoint, generator: torch.Generator) -> list[OperatingPoint]:
    """What stands for a width: itself, or random plans whose layers' widths lie evenly around it."""
    widths, width = recipe.widths(), point.what
    if not isinstance(width, float) or recipe.tested == "uniform" or not isinstance(widths, WidthRange):
        return [point]
    reach = min(width - widths.smallest, widths.largest - width)
    if reach <= 0:
        return [point]
    around = WidthRange(width - reach, width + reach)
    return [OperatingPoint(f"{point.name}, plan {n}", random_plan(net, around, generator)) for n in range(PLANS)]


def calibrate(
    task: Problem,
    recipe: Recipe,
    net: nn.Module,
    points: Sequence[OperatingPoint],
    seed: int,
    device: torch.device,
    ranks: Ranks,
) -> None:
    """Compute the BatchNorm statistics of the widths of some points, as the recipe says."""
    widths: list[Width] = [width for point in points for width in point.widths]
    if slimming_of(net).norm.learns_statistics:
        return
    if recipe.calibrate == 0:
        use_full_statistics(net, widths)
        return
    augmented = recipe.calibrate_on == "augmented"
    batches = task.batches(range(recipe.calibrate), seed, device=device, shard=ranks.shard, augmented=augmented)
    slim.calibrate(net, (inputs for inputs, _ in batches), widths, average=recipe.average)
