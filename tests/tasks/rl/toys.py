"""Environments that are over in a few steps, with everything that can go wrong."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Dice(gymnasium.Env[np.ndarray, np.int64]):
    """Throws a die each step, for as many steps as the first throw says: observes [throw, steps left]."""

    def __init__(self, observation: spaces.Space[Any] | None = None, actions: spaces.Space[Any] | None = None) -> None:
        self.observation_space = observation or spaces.Box(0, 100, (2,), np.float64)
        self.action_space = actions or spaces.Discrete(3)
        self.left = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 7))
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self._observe(), 0.1 * float(action), self.left <= 0, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([self._throw(), self.left], np.float64)

    def _throw(self) -> float:
        return float(self.np_random.random())


class LoadedDice(Dice):
    """Draws from a generator that nobody knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = np.random.default_rng()

    def _throw(self) -> float:
        return float(self.hidden.random())


class HiddenDice(Dice):
    """Observes nothing of what it throws."""

    def _observe(self) -> np.ndarray:
        return super()._observe() * 0


class Pushing(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Resets in earnest only where it must, then steps by itself, which may end the next episode already."""

    over = True

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        if self.over:
            observation, info = self.env.reset(**arguments)
        for _ in range(3):
            observation, _, self.over, _, info = self.env.step(np.int64(0))
            if self.over:
                observation, info = self.env.reset(**arguments)
                self.over = False
        return observation, info

    def step(self, action: Any) -> Any:
        observation, reward, self.over, truncated, info = self.env.step(action)
        return observation, reward, self.over or self.unwrapped.left % 3 == 0, truncated, info  # type: ignore[attr-defined]
