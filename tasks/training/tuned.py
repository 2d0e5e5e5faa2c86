"""Recipes of supervised tasks whose hyperparameters are chosen on training data that are held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import nn

from tasks.points import AS_IT_IS, PointResult, name_of_width, runs_at
from tasks.training.problem import HELD_OUT, Problem
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun, derive_seed
from tasks.training.scoring import calibrate
from tasks.training.supervised import Loop, resumed, start, train_recipe
from tasks.training.tuning import Values, after_trials, choose

SCORED_ON = 20  # batches of what was held out


def train_tuned(task: Problem, recipe: Recipe, run: TrainingRun) -> list[PointResult]:
    """Choose the hyperparameters of a recipe, then train it with them on all training data, and score it.

    A trial trains without a tenth of the training data, and scores by the mean loss on that tenth.

    Returns:
        A result for each operating point, cheapest first, and what was chosen.

    Raises:
        ValueError: several ranks, or the task has no such hyperparameter.
        Interrupted, TrainingFailed, HostileCheckpointError: as `tasks.training.supervised.train_recipe`.
    """
    if run.ranks.count > 1:
        raise ValueError(f"recipe '{recipe.name}' is tuned in one process; start without torchrun")
    learned, held_out = task.split(HELD_OUT)

    def trial(values: Values, own: TrainingRun, width: float | None) -> Mapping[str, float]:
        loop = Loop(learned.tuned(values), recipe, own)
        return held_out_losses(loop, held_out, resumed(loop, lambda: start(loop, width)).net, width)

    networks = recipe.networks(task)
    chosen = choose(recipe, networks, run, trial)
    results = train_recipe(task, recipe, after_trials(recipe, networks, run), values=chosen.values)
    own = {result.point: result.width if recipe.kind == "individual" else None for result in results}
    return [replace(result, found=chosen.found(own[result.point])) for result in results]


@torch.no_grad()
def held_out_losses(loop: Loop, held_out: Problem, net: nn.Module, width: float | None) -> dict[str, float]:
    """The mean loss at each operating point of a trained network; at its own width alone of an individual one."""
    points, seed = [AS_IT_IS], loop.run.seed
    if width is None:
        points = loop.recipe.points(loop.task)
        with torch.enable_grad():
            calibrate(
                loop.task, loop.recipe, net, points, derive_seed(seed, "calibration"), loop.run.device, loop.run.ranks
            )
    steps, seed = range(SCORED_ON), derive_seed(seed, "scoring of trials")
    batches = list(held_out.batches(steps, seed, device=loop.run.device, augmented=False))
    with runs_at(net.eval(), points) as runs:
        losses = [_loss(loop, run, batches) for run in runs]
    names = [point.name if width is None else name_of_width(width) for point in points]
    return dict(zip(names, losses, strict=True))


def _loss(loop: Loop, run: Callable[..., Any], batches: Sequence[Any]) -> float:
    outputs = (run(*inputs) if isinstance(inputs, tuple) else run(inputs) for inputs, _ in batches)
    return fmean(float(loop.task.loss(output, target)) for output, (_, target) in zip(outputs, batches, strict=True))
