"""How a trained network is scored: BatchNorm statistics first, then cost and metrics at each width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import nn

import slimlib as slim
from slimlib.calibration import use_full_statistics
from slimlib.core.setting import slimming_of
from slimlib.core.width import Width, WidthRange
from slimlib.training.nonuniform import random_plan
from tasks.task import Scores, SupervisedTask
from tasks.training.ranks import ALONE, Ranks
from tasks.training.recipe import Recipe
from tasks.training.seeds import derive_seed

PLANS = 4
"""Random plans that a non-uniform test takes the mean over, at each width."""


Series = dict[str, dict[str, list[Any]]]
"""Evaluation set -> metric name -> several values."""


@dataclass(frozen=True)
class WidthResult:
    """What was measured at one width.

    Attributes:
        samples: the values that a metric is the mean of, where they are kept: the return of each episode.
        curve: [steps trained, value] of a metric at some moments of the training.
    """

    width: float
    macs: int
    params: int
    metrics: Scores
    samples: Series = field(default_factory=dict)
    curve: Series = field(default_factory=dict)


class TrainingFailed(Exception):
    """Training gave nothing to record, for example because the loss is not a finite number."""

    on_every_rank = True  # it is computed from numbers that all ranks share


def score(
    task: SupervisedTask,
    recipe: Recipe,
    net: nn.Module,
    width: float | None,
    *,
    seed: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> list[WidthResult]:
    """Score a trained network, leaving it in eval mode.

    Args:
        width: that an individual network was built for; None: a slimmable one, scored at all widths of the recipe.
        seed: of the recipe; decides the images of the calibration, and random plans.
        ranks: the processes that have the network and score it together; all get the same results.

    Raises:
        TrainingFailed: a score is not finite.
    """
    if width is not None:
        return [_mean(task, net, width, [1.0], ranks.first(lambda: _evaluate(task, net.eval(), None)))]
    shown = recipe.evaluated(task)
    generator = torch.Generator().manual_seed(derive_seed(seed, "plans"))
    tested = {w: _tested(recipe, net, w, generator) for w in shown}
    every = [setting for settings in tested.values() for setting in settings]
    _calibrate(task, recipe, net, every, derive_seed(seed, "calibration"), device, ranks)
    scores = iter(_evaluate_together(task, net.eval(), every, ranks))
    return [_mean(task, net, w, settings, [next(scores) for _ in settings]) for w, settings in tested.items()]


def _tested(recipe: Recipe, net: nn.Module, width: float, generator: torch.Generator) -> list[Width]:
    """What stands for a width: itself, or random plans whose layers' widths lie evenly around it."""
    widths: Any = recipe.widths()  # plans are not tested around a number
    reach = min(width - widths.smallest, widths.largest - width)
    if recipe.tested == "uniform" or reach <= 0:
        return [width]
    around = WidthRange(width - reach, width + reach)
    return [random_plan(net, around, generator) for _ in range(PLANS)]


def _calibrate(
    task: SupervisedTask,
    recipe: Recipe,
    net: nn.Module,
    widths: Sequence[Width],
    seed: int,
    device: torch.device,
    ranks: Ranks,
) -> None:
    if slimming_of(net).norm.learns_statistics:
        return
    if recipe.calibrate == 0:
        use_full_statistics(net, widths)
        return
    augmented = recipe.calibrate_on == "augmented"
    batches = task.batches(range(recipe.calibrate), seed, device=device, shard=ranks.shard, augmented=augmented)
    slim.calibrate(net, (x for x, _ in batches), widths, average=recipe.average)


def _evaluate_together(task: SupervisedTask, net: nn.Module, widths: Sequence[Width], ranks: Ranks) -> list[Scores]:
    """The scores at each width, each evaluated on one of the ranks."""
    own = widths[ranks.index :: ranks.count]
    found = ranks.gathered(lambda: _evaluate(task, net, own) if own else [])
    return [found[i % ranks.count][i // ranks.count] for i in range(len(widths))]


def _evaluate(task: SupervisedTask, net: nn.Module, widths: Sequence[Width] | None) -> list[Scores]:
    with torch.no_grad():
        return task.evaluate(net, widths)


def _mean(
    task: SupervisedTask, net: nn.Module, width: float, settings: Sequence[Width], scores: Sequence[Scores]
) -> WidthResult:
    """The result of a width: that of its one setting, or the mean over those that stand for it."""
    device = next(net.parameters()).device
    costs = [slim.cost(net, task.example().to(device), setting) for setting in settings]
    metrics = {
        name: {metric: fmean(each[name][metric] for each in scores) for metric in values}
        for name, values in scores[0].items()
    }
    for name, values in metrics.items():
        for metric, value in values.items():
            if not math.isfinite(value):
                raise TrainingFailed(f"{metric} on {name} is {value} at width {width:g}")
    return WidthResult(width, round(fmean(c.macs for c in costs)), round(fmean(c.params for c in costs)), metrics)
