"""Policies of every kind, and what slims them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import (
    ActorCriticPolicy,
    BasePolicy,
)
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.dqn import policies as dqn
from stable_baselines3.sac import policies as sac
from torch import Tensor, nn

import slimlib as slim

WIDTHS = (0.25, 0.5, 1.0)
VECTOR = spaces.Box(-1, 1, (5,))
IMAGE = spaces.Box(0, 255, (2, 36, 36), np.uint8)
NORMALISED = spaces.Box(0, 1, (2, 36, 36), np.float32)
BOTH = spaces.Dict({"image": IMAGE, "vector": VECTOR})
ONE_OF_FOUR = spaces.Discrete(4)
FORCE = spaces.Box(-1, 1, (2,))


class OwnExtractor(BaseFeaturesExtractor):
    """Convolution, norm, a depthwise convolution, and a linear layer, in a module of its own."""

    def __init__(self, space: spaces.Space[Any], features_dim: int = 24, *, norm: str = "group") -> None:
        super().__init__(space, features_dim)
        norms: dict[str, nn.Module] = {"group": nn.GroupNorm(4, 16), "batch": nn.BatchNorm2d(16)}
        self.body = nn.Sequential(nn.Conv2d(2, 16, 5, stride=4), norms[norm], nn.ReLU())
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.scale = nn.Parameter(torch.ones(16, 1, 1))
        self.head = nn.Linear(16, features_dim)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head((self.depthwise(self.body(images)) * self.scale).mean(dim=(2, 3)))
        return out


def actor_critic(policy: Any, observation: Any) -> tuple[Tensor, Tensor]:
    features = policy.extract_features(observation)
    pi, vf = features if isinstance(features, tuple) else (features, features)
    extractor = policy.mlp_extractor
    return policy.action_net(extractor.forward_actor(pi)), policy.value_net(extractor.forward_critic(vf))


def q_values(policy: Any, observation: Any) -> Tensor:
    values: Tensor = policy.q_net(observation)
    return values


def actor_and_critics(policy: Any, observation: Any, action: Tensor) -> tuple[Tensor, ...]:
    mean, log_std, _ = policy.actor.get_action_dist_params(observation)
    return mean, log_std, *policy.critic(observation, action)


PATHS: Mapping[type[BasePolicy], Callable[..., Any]] = {
    ActorCriticPolicy: actor_critic,
    dqn.DQNPolicy: q_values,
    sac.SACPolicy: actor_and_critics,
}


def path_of(policy: BasePolicy) -> Callable[..., Any]:
    return next(path for family, path in PATHS.items() if isinstance(policy, family))


def built(kind: type[BasePolicy], space: spaces.Space[Any], kwargs: Mapping[str, Any]) -> BasePolicy:
    actions = FORCE if issubclass(kind, sac.SACPolicy) else ONE_OF_FOUR
    return kind(space, actions, lambda _: 1e-3, **copy.deepcopy(dict(kwargs)))


def arguments(policy: BasePolicy) -> tuple[Any, ...]:
    """Two observations, and for SAC two actions."""
    space = copy.deepcopy(policy.observation_space)
    space.seed(0)
    drawn = [space.sample() for _ in range(2)]
    stacked = {key: np.stack([d[key] for d in drawn]) for key in drawn[0]} if isinstance(space, spaces.Dict) else None
    observation = obs_as_tensor(stacked if stacked is not None else np.stack(drawn), torch.device("cpu"))
    return (observation, torch.rand(2, 2)) if isinstance(policy, sac.SACPolicy) else (observation,)


def slimmed(policy: BasePolicy, **options: Any) -> BasePolicy:
    """Follow the deterministic path of a policy, whose own forward samples."""
    policy.__dict__["forward"] = MethodType(path_of(policy), policy)
    slim.convert(policy, arguments(policy), **({"divisor": 4} | options))
    del policy.__dict__["forward"]
    return policy.eval()
