"""Small models of stable-baselines3 on environments that answer at once."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

import slimlib as slim
from slimlib.rl import SlimA2C, SlimDQN, SlimPPO, SlimSAC

WIDTHS = slim.Switches(0.25, 0.5, 1.0)
ON_POLICY: dict[str, Any] = {"n_steps": 16}
OFF_POLICY: dict[str, Any] = {"learning_starts": 20, "batch_size": 16, "buffer_size": 200}
KINDS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "PPO": (SlimPPO, "CartPole-v1", ON_POLICY | {"batch_size": 8, "n_epochs": 2}),
    "PPO, continuous": (SlimPPO, "Pendulum-v1", ON_POLICY | {"batch_size": 8, "n_epochs": 2}),
    "A2C": (SlimA2C, "CartPole-v1", ON_POLICY),
    "DQN": (SlimDQN, "CartPole-v1", OFF_POLICY | {"train_freq": 4, "target_update_interval": 20}),
    "SAC": (SlimSAC, "Pendulum-v1", OFF_POLICY),
    "PPO, state-dependent noise": (
        SlimPPO,
        "Pendulum-v1",
        ON_POLICY | {"batch_size": 8, "n_epochs": 2, "use_sde": True, "sde_sample_freq": 4},
    ),
    "SAC, state-dependent noise": (SlimSAC, "Pendulum-v1", OFF_POLICY | {"use_sde": True}),
}


def model(name: str, **changes: Any) -> Any:
    """A slimmable model of two hidden layers of 16 units, at widths 0.25, 0.5, 1.0."""
    kind, environment, arguments = KINDS[name]
    given = {"widths": WIDTHS, "rule": "every", "seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [16, 16]}}
    return kind("MlpPolicy", environment, **arguments | given | changes)


def plain_twin(name: str, **changes: Any) -> Any:
    """The ordinary model with the same arguments."""
    kind, environment, arguments = KINDS[name]
    given = {"seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [16, 16]}}
    return kind.plain("MlpPolicy", environment, **arguments | given | changes)


def observations(slimmable: Any, count: int = 5) -> np.ndarray:
    """Drawn anew, always the same."""
    shape = slimmable.observation_space.shape
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def same_parameters(a: Any, b: Any) -> bool:
    """Whether two policies agree to the last bit."""
    ours, theirs = a.policy.state_dict(), b.policy.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class Seen(gymnasium.Env[Any, Any]):
    """Draws observations of any space, and ends after eight steps."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), float(np.sum(action)), self.steps == 8, False, {}


class Convolutions(BaseFeaturesExtractor):
    """A features extractor that a user might write."""

    def __init__(self, observation_space: spaces.Space[Any], features_dim: int = 12) -> None:
        super().__init__(observation_space, features_dim)
        self.along = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Flatten())
        self.out = nn.Linear(8 * (observation_space.shape[0] - 2), features_dim)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.out(self.along(seen.unsqueeze(1))))
