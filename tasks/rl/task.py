"""Deep reinforcement learning as a task: an environment, an algorithm, and how policies are scored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.rl.environments import check_environment, make_environments
from tasks.rl.evaluation import Judge, held_out, mean
from tasks.rl.models import one_observation
from tasks.rl.settings import RlSettings
from tasks.rl.trained_models import film, keep_model
from tasks.rl.training import METRIC, train_policies
from tasks.task import Metric, Scores
from tasks.training.checkpoint import Checkpoint
from tasks.training.recipe import Recipe
from tasks.training.scoring import WidthResult
from tasks.training.supervised import Watch

UNWATCHED = Watch()


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

    @property
    def protocol(self) -> str:
        """How it is evaluated."""
        how = "the likeliest action" if self.settings.deterministic else "sampled actions"
        algorithm, copies = self.settings.algorithm.upper(), self.settings.environments
        return (
            f"{algorithm}, {copies} environments side by side; undiscounted return of whole episodes, mean over "
            f"{self.settings.episodes} held-out seeds, {how}"
        )

    @cached_property
    def _observation(self) -> Any:
        with closing(make_environments(self.settings, seed=0, count=1, training=False)) as environment:
            return one_observation(environment.observation_space, torch.device("cpu"))

    def example(self) -> Tensor:
        """An observation, or the largest part of one: [1, ...]."""
        seen = self._observation
        found: Tensor = max(seen.values(), key=Tensor.numel) if isinstance(seen, dict) else seen
        return found

    def baselines(self) -> dict[str, Scores]:
        """Random actions."""
        judge = Judge(self.settings)
        try:
            returns = judge.random_returns(self.settings.episodes)
        finally:
            judge.close()
        return {"random actions": {self.settings.environment: {METRIC: mean(returns)}}}

    def train(
        self,
        recipe: Recipe,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        checkpoint: Checkpoint | None = None,
        watch: Watch = UNWATCHED,
    ) -> list[WidthResult]:
        """See `tasks.rl.training.train_policies`."""
        return train_policies(
            self.settings, recipe, steps=steps, seed=seed, device=device, checkpoint=checkpoint, watch=watch
        )

    def keep(self, trained: Any, path: Path) -> None:
        """Write a model, and the statistics that normalise its observations."""
        keep_model(trained, path)

    def showcase_files(self, path: Path, widths: Sequence[float]) -> dict[str, bytes]:
        """`video.gif`, one episode at the narrowest, a middle and the largest width, where it was asked for."""
        if not self.settings.video:
            return {}
        shown = sorted({widths[0], widths[len(widths) // 2], widths[-1]})
        return {"video.gif": film(self.settings, path, shown, held_out(1)[0])}
