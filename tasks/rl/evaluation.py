"""How a policy is scored: whole episodes on held-out seeds, the same for every recipe, seed and width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from slimlib.core.setting import at_width
from tasks.points import OperatingPoint, PerInput
from tasks.rl.environments import make_environments, play, share_statistics
from tasks.rl.models import Scores
from tasks.rl.settings import RlSettings
from tasks.training.run import derive_seed

TOGETHER = 16
"""Episodes that are played side by side."""

LONGEST = 27_000  # steps of an episode, for environments without a limit of their own: that of Atari games

Predict = Callable[[Any], np.ndarray]


def held_out(count: int, purpose: str = "evaluation") -> list[int]:
    """Seeds of the episodes for a purpose: fixed, and none that a training begins with."""
    return [derive_seed(i, f"{purpose} episode") for i in range(count)]


class Judge:
    """Plays episodes; the environments are made when they are first needed. Close it after use.

    Args:
        purpose: of its episodes, which are others for each.
    """

    def __init__(self, settings: RlSettings, purpose: str = "evaluation") -> None:
        self.settings, self.purpose = settings, purpose
        self._environments: VecEnv | None = None

    def returns(
        self,
        model: Any,
        point: OperatingPoint,
        episodes: int,
        training: VecEnv | None,
        seeds: Sequence[int] | None = None,
    ) -> list[float]:
        """The undiscounted return of each episode.

        Args:
            point: what the policy is set to.
            training: whose statistics normalise the observations.
            seeds: of the episodes; None: those that are held out for evaluation.

        Raises:
            ValueError: the point chooses a width for each state, of a policy whose actions are not numbered.
        """
        seeds = held_out(episodes, self.purpose) if seeds is None else seeds
        if isinstance(point.what, PerInput):
            return self._play(partial(_by_rule, Scores(model), point.what), seeds, training)
        likeliest = self.settings.deterministic
        with nullcontext() if point.what is None else at_width(model.policy, point.what):
            predict: Predict = lambda seen: model.policy.predict(seen, deterministic=likeliest)[0]  # noqa: E731
            return self._play(predict, seeds, training)

    def random_returns(self, episodes: int) -> list[float]:
        """Of actions that are drawn without a look."""
        environments = self._made()
        space = environments.action_space
        space.seed(derive_seed(0, "random actions"))
        draw: Predict = lambda _: np.stack([space.sample() for _ in range(environments.num_envs)])  # noqa: E731
        return self._play(draw, held_out(episodes), None)

    def _play(self, predict: Predict, seeds: Sequence[int], training: VecEnv | None) -> list[float]:
        environments = self._made()
        if training is not None:
            share_statistics(training, environments)
        return play(predict, environments, list(seeds), limit=LONGEST)

    def _made(self) -> VecEnv:
        if self._environments is None:
            most = max(self.settings.episodes, self.settings.curve_episodes)
            self._environments = make_environments(self.settings, seed=0, count=min(TOGETHER, most), training=False)
        return self._environments

    def close(self) -> None:
        if self._environments is not None:
            self._environments.close()
            self._environments = None


def _by_rule(scores: Scores, rule: PerInput, seen: Any) -> np.ndarray:
    """The likeliest actions, each observation at a width of its own."""
    observations = scores.policy.obs_to_tensor(seen)[0]
    with torch.no_grad():
        actions: np.ndarray = rule(scores, observations).argmax(1).cpu().numpy()
    return actions


def mean(returns: Sequence[float]) -> float:
    return float(np.mean(returns))
