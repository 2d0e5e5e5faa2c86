"""The smallest task that tells whether a policy learns at all: answer with what is seen."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium import spaces

SIGHTS = 4
STEPS = 100


class Identity(gymnasium.Env[Any, Any]):
    """Pays 1 for the action that has the number of what is seen; something new is seen at every step, for 100 steps."""

    def __init__(self) -> None:
        self.observation_space = self.action_space = spaces.Discrete(SIGHTS)
        self.seen, self.steps = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.seen)
        self.steps += 1
        return self._look(), reward, False, self.steps == STEPS, {}

    def _look(self) -> int:
        self.seen = int(self.np_random.integers(SIGHTS))
        return self.seen


gymnasium.register("Identity-v0", entry_point="tasks.rl.identity:Identity", reward_threshold=0.9 * STEPS)
