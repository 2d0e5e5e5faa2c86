"""What a policy of stable-baselines3 computes before it draws an action: what `convert` follows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, maybe_transpose
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor

from slimlib.rl.contrib import refuse_contrib


class Path:
    """How a family of policies computes what must stay full from what must not be cut."""

    def __init__(self, forward: Callable[..., Any], *, takes_action: bool = False) -> None:
        self.forward, self.takes_action = forward, takes_action

    def example(self, policy: BasePolicy) -> tuple[Any, ...]:
        """Two observations, and actions where they go into a critic; the generators of the spaces are left alone."""
        observation = example_observation(policy.observation_space, policy.device)
        if not self.takes_action:
            return (observation,)
        size = int(np.prod(policy.action_space.shape or (1,)))
        action = torch.rand(2, size, generator=torch.Generator().manual_seed(0))
        return observation, action.to(policy.device)


def _actor_critic(policy: Any, observation: Any) -> tuple[Tensor, ...]:
    features = policy.extract_features(observation)
    actor, critic = features if isinstance(features, tuple) else (features, features)
    latent = policy.mlp_extractor.forward_actor(actor)
    mean, value = policy.action_net(latent), policy.value_net(policy.mlp_extractor.forward_critic(critic))
    if not policy.use_sde:
        return mean, value
    return mean, value, latent @ policy.log_std  # not its deviation, but each unit meets its own row there, too


def _q_network(policy: Any, observation: Any) -> Tensor:
    values: Tensor = policy.q_net(observation)
    return values


def _soft_actor_critic(policy: Any, observation: Any, action: Tensor) -> tuple[Any, ...]:
    actor, values = policy.actor, policy.critic(observation, action)
    mean, log_std, latent = actor.get_action_dist_params(observation)
    return mean, latent["latent_sde"] @ log_std if actor.use_sde else log_std, *values


PATHS: Mapping[type, Path] = {
    ActorCriticPolicy: Path(_actor_critic),
    DQNPolicy: Path(_q_network),
    SACPolicy: Path(_soft_actor_critic, takes_action=True),
}


def path_of(policy: BasePolicy) -> Path:
    refuse_contrib(type(policy))
    found = next((path for family, path in PATHS.items() if isinstance(policy, family)), None)
    if found is None:
        raise ValueError(
            f"{type(policy).__name__} is no policy of PPO, A2C, DQN or SAC; make its networks slimmable one by one "
            "with slimlib.convert"
        )
    return found


@contextmanager
def computing(policy: BasePolicy, path: Path) -> Iterator[None]:
    """The policy's forward, which samples, is the deterministic path for a while."""
    policy.__dict__["forward"] = MethodType(path.forward, policy)
    try:
        yield
    finally:
        policy.__dict__.pop("forward", None)


def example_observation(space: spaces.Space[Any], device: torch.device) -> Any:
    """Two observations as the networks take them: a tensor [2, ...], or a dict of them."""
    space = copy.deepcopy(space)
    space.seed(0)
    drawn = [space.sample() for _ in range(2)]
    if isinstance(space, spaces.Dict):
        stacked = {key: _stacked([d[key] for d in drawn], part) for key, part in space.spaces.items()}
        return obs_as_tensor(stacked, device)
    return obs_as_tensor(_stacked(drawn, space), device)


def _stacked(drawn: list[Any], space: spaces.Space[Any]) -> np.ndarray:
    arrays = np.stack([np.asarray(each) for each in drawn])
    return maybe_transpose(arrays, space) if is_image_space(space) else arrays


def check_rows(what: str, space: spaces.Space[Any]) -> None:
    """Raise ValueError for numbers to choose from that are not in one row: stable-baselines3 takes no others.

    Args:
        what: "observations" or "actions", for the message.
        space: of them.
    """
    for part in space.spaces.values() if isinstance(space, spaces.Dict) else [space]:
        shape = np.shape(part.nvec) if isinstance(part, spaces.MultiDiscrete) else part.shape or ()
        counted = isinstance(part, spaces.MultiDiscrete) or (what == "actions" and isinstance(part, spaces.MultiBinary))
        if counted and len(shape) > 1:
            kind, size = type(part).__name__, int(np.prod(shape))
            raise ValueError(
                f"{what} are {kind} of shape {tuple(shape)}; policies of stable-baselines3 take one row. Wrap the "
                f"environment so that they are {kind} of shape ({size},), and reshape them there"
            )
