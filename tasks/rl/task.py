"""Deep reinforcement learning as a task: an environment, an algorithm, and how policies are scored."""

from __future__ import annotations

from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tasks.points import PointResult, Scores
from tasks.rl.environments import check_environment, make_environments
from tasks.rl.evaluation import Judge, held_out, mean
from tasks.rl.models import one_observation
from tasks.rl.settings import RlSettings
from tasks.rl.showcase import frames_by_width
from tasks.rl.trained_models import film, keep_model
from tasks.rl.training import METRIC, train_policies
from tasks.task import Metric, Showcase
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun


class ReinforcementLearning:
    """Policies for one environment, trained by an algorithm of stable-baselines3 or its slimmable form.

    Raises:
        ValueError: the environment does not exist, lacks a package, or does not fit algorithm and policy.
    """

    name = "rl"
    metrics = (Metric(METRIC, "", "higher"),)
    follows = "return"
    step_unit = "environment steps"

    def __init__(self, settings: RlSettings) -> None:
        check_environment(settings)
        self.settings = settings
        self.widths = settings.widths
        self.dataset = settings.environment
        self.eval_sets = (settings.environment,)
        how = "the likeliest action" if settings.deterministic else "sampled actions"
        self.protocol = (
            f"{settings.algorithm.upper()}, {settings.environments} environments side by side; undiscounted return of "
            f"whole episodes, mean over {settings.episodes} held-out seeds, {how}"
        )

    @cached_property
    def _observation(self) -> Any:
        with closing(make_environments(self.settings, seed=0, count=1, training=False)) as environment:
            return one_observation(environment.observation_space, torch.device("cpu"))

    def example(self) -> Any:
        """An observation: [1, ...], or a dict of such."""
        return self._observation

    def baselines(self) -> dict[str, Scores]:
        """Random actions."""
        judge = Judge(self.settings)
        try:
            returns = judge.random_returns(self.settings.episodes)
        finally:
            judge.close()
        return {"random actions": {self.settings.environment: {METRIC: mean(returns)}}}

    def check_run(self, precision: str, ranks: int) -> None:
        """Policies are trained as stable-baselines3 does, in float32 and by one process."""
        if precision != "float32":
            raise ValueError(f"precision={precision}: task={self.name} trains in float32")
        if ranks > 1:
            raise ValueError(
                f"task={self.name} trains each recipe in one process; use launcher=joblib, without torchrun"
            )

    def train(self, recipe: Recipe, run: TrainingRun) -> list[PointResult]:
        """See `tasks.rl.training.train_policies`."""
        return train_policies(self.settings, recipe, run)

    def keep(self, trained: Any, recipe: Recipe, path: Path) -> None:
        """Write a model, and the statistics that normalise its observations."""
        keep_model(trained, path)

    def show(self, recipe: Recipe, path: Path) -> Showcase | None:
        """`video.gif`, one episode at the narrowest, a middle and the largest width, where it was asked for.

        Of a recipe that chooses a width for each state, pictures of an episode by the width that they got.
        """
        if not self.settings.video:
            return None
        if recipe.per_input is not None:
            return Showcase(frames_by_width(self.settings, recipe, path, held_out(1)[0]))
        widths = recipe.evaluated(self)
        shown = sorted({widths[0], widths[len(widths) // 2], widths[-1]})
        return Showcase(files={"video.gif": film(self.settings, path, shown, held_out(1)[0])})
