"""The gradients of a policy's own loss and of its students, taken apart over its training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.pull.measuring import POINTS, WINDOW, Pull, Pulled, cosine_between, gradient_at
from slimlib.core.setting import in_use
from slimlib.core.width import Width
from slimlib.rl.stability import Stability
from slimlib.rl.update import Update
from tasks.rl.settings import RlSettings
from tasks.rl.training import METRIC, train_policies
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun


def measure_policy(settings: RlSettings, recipe: Recipe, run: TrainingRun) -> Pulled:
    """Train a recipe's policy, and take its gradients apart `POINTS` times, which changes nothing of the training.

    Raises:
        ValueError: the training has fewer updates than are looked at in a row.
    """
    made: list[Apart] = []

    def prepare(model: Any) -> None:
        model.stabilizer = Apart(model)
        made.append(model.stabilizer)

    results = train_policies(settings, recipe, run, prepare)
    if not made[-1].pulls:
        raise ValueError(
            f"'{recipe.name}' has fewer than {WINDOW} updates in {run.steps:,} environment steps, which is too few to "
            "compare; set a larger steps="
        )
    scores = {result.point: result.metrics[settings.environment][METRIC] for result in results}
    return Pulled(recipe=recipe.name, seed=run.seed, pulls=made[-1].pulls, scores=scores)


class Apart(Stability):
    """Does what the algorithm's own stability does, and looks at the gradients before they are clipped."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.pulls: list[Pull] = []
        self._inner: Stability = model.stabilizer
        self._due = 0
        self._window: list[tuple[Tensor, Tensor]] = []

    def begin(self) -> None:
        self._inner.begin()

    def old_log_prob(self, data: Any, actions: Tensor, width: Width) -> Tensor:
        return self._inner.old_log_prob(data, actions, width)

    def backward(self, update: Update) -> dict[Width, Tensor]:
        point = math.floor(POINTS * (1 - self.model._current_progress_remaining))
        if point < self._due:
            return self._inner.backward(update)
        if not self._window:
            self._started = self.model.num_timesteps
            self._places = list(in_use(update.policy, update.rule.widths.smallest).items())  # every width uses them
        own: list[Tensor] = []
        passes = 0

        def forward(*args: Any) -> Any:
            nonlocal passes
            passes += torch.is_grad_enabled()  # not where a teacher looks
            if passes == 2 and not own:  # the full width is done
                own.append(gradient_at(self._places))
            return update.forward(*args)

        losses = self._inner.backward(replace(update, forward=forward, limit=None))
        whole = gradient_at(self._places)
        data = own[0] if own else whole
        self._window.append((data, whole - data))
        update.clip()
        if len(self._window) == WINDOW:
            self.pulls.append(_pull(self._started, self._window))
            self._due, self._window = point + 1, []
        return losses


def _pull(step: int, window: Sequence[tuple[Tensor, Tensor]]) -> Pull:
    data, students = (torch.stack(side) for side in zip(*window, strict=True))
    return Pull(
        step=step,
        data=float(data.norm(dim=1).mean()),
        students=float(students.norm(dim=1).mean()),
        cosine=sum(cosine_between(*pair) for pair in window) / len(window),
        agreement_of_data=_agreement(data),
        agreement_of_students=_agreement(students),
    )


def _agreement(gradients: Tensor) -> float:
    """The length of the sum of gradients [steps, numbers] over the sum of their lengths; NaN where all are nothing."""
    return float(gradients.sum(0).norm() / gradients.norm(dim=1).sum())
