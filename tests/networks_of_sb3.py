"""Policies of stable-baselines3; importing this needs it installed."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common import policies
from torch import Tensor, nn


class Policy(nn.Module):
    """The deterministic path of a stable-baselines3 actor-critic: observation -> (logits, value)."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Any) -> tuple[Tensor, Tensor]:
        actor, critic = self.policy.mlp_extractor(self.policy.extract_features(observation))
        return self.policy.action_net(actor), self.policy.value_net(critic)


def mlp() -> tuple[nn.Module, tuple[Any, ...]]:
    space, actions = gymnasium.spaces.Box(-1, 1, (8,)), gymnasium.spaces.Discrete(4)
    architecture = {"pi": [64, 64], "vf": [64, 64]}
    policy = policies.ActorCriticPolicy(space, actions, lambda _: 1e-3, net_arch=architecture)
    return Policy(policy), (torch.randn(2, 8),)


def cnn() -> tuple[nn.Module, tuple[Any, ...]]:
    space, actions = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8), gymnasium.spaces.Discrete(4)
    image = torch.randint(0, 255, (2, 4, 84, 84), dtype=torch.uint8)
    return Policy(policies.ActorCriticCnnPolicy(space, actions, lambda _: 1e-3)), (image,)


def multi_input() -> tuple[nn.Module, tuple[Any, ...]]:
    spaces = gymnasium.spaces
    space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (3, 64, 64), np.uint8),
            "vector": spaces.Box(-1, 1, (5,)),
            "kind": spaces.Discrete(3),
        }
    )
    policy = policies.MultiInputActorCriticPolicy(space, spaces.Discrete(4), lambda _: 1e-3)
    image = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    return Policy(policy), ({"image": image, "vector": torch.randn(2, 5), "kind": torch.tensor([1, 2])},)
