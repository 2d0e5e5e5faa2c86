"""MinAtar: the games as images that policies take, and the small network that plays them.

Source: Young & Tian 2019, MinAtar (arXiv 1903.03176).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import seeding
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn


class MinAtarImages(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A game of MinAtar whose observations are images [channels, 10, 10] of 0 and 255, a channel for each object.

    Every episode is decided by the state of the environment's own generator before its reset: the games draw from
    another one, which no reset sets, and remember the last action of the episode before.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        height, width, channels = env.observation_space.shape  # type: ignore[misc]
        self.observation_space = spaces.Box(0, 255, (channels, height, width), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Any]:
        inner: Any = self.unwrapped
        if seed is not None:
            inner._np_random, inner._np_random_seed = seeding.np_random(seed)
        draws = np.random.RandomState(int(inner.np_random.integers(2**32)))
        inner.game.random = inner.game.env.random = draws
        inner.game.last_action = 0
        observation, info = self.env.reset(options=options)
        return _image(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return _image(observation), reward, terminated, truncated, info


def _image(observation: np.ndarray) -> np.ndarray:
    """Booleans [10, 10, channels] -> uint8 [channels, 10, 10]."""
    return np.moveaxis(observation.astype(np.uint8) * np.uint8(255), -1, 0)


class MinAtarCNN(BaseFeaturesExtractor):
    """The network of MinAtar's authors: 16 filters of 3 x 3, and a layer of 128 units. Images [N, channels, 10, 10].

    Source: Young & Tian 2019, sec. 4.
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        self.cnn = nn.Sequential(nn.Conv2d(observation_space.shape[0], 16, 3), nn.ReLU(), nn.Flatten())
        with torch.no_grad():
            flat = self.cnn(torch.zeros(1, *observation_space.shape)).shape[1]
        self.linear = nn.Sequential(nn.Linear(flat, features_dim), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.linear(self.cnn(images))  # [N, 128]
        return features
