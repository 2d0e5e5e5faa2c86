"""The smallest task that tells whether a policy learns at all: answer with what is seen."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SIGHTS = 4
BITS = 4
STEPS = 100


class Identity(gymnasium.Env[Any, Any]):
    """Pays 1 for the action that has the number of what is seen; something new is seen at every step, for 100 steps."""

    def __init__(self) -> None:
        self.observation_space: spaces.Space[Any] = spaces.Discrete(SIGHTS)
        self.action_space = self.observation_space
        self.seen: Any = 0
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(np.all(action == self.seen))
        self.steps += 1
        return self._look(), reward, False, self.steps == STEPS, {}

    def _look(self) -> Any:
        self.seen = int(self.np_random.integers(SIGHTS))
        return self.seen


class IdentityOfBits(Identity):
    """Shows several bits at a time, and pays where all of the answer are right: one action of several parts."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = self.action_space = spaces.MultiBinary(BITS)

    def _look(self) -> Any:
        self.seen = self.np_random.integers(2, size=BITS, dtype=np.int8)
        return self.seen


for kind in (Identity, IdentityOfBits):
    gymnasium.register(
        f"{kind.__name__}-v0", entry_point=f"tasks.rl.identity:{kind.__name__}", reward_threshold=0.9 * STEPS
    )
