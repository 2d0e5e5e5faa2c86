"""Policies of stable-baselines3 made slimmable: what reaches actions and values stays full, all hidden layers slim."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, maybe_transpose
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from slimlib.convert import check_layout, convert
from slimlib.core.apply import apply_layout
from slimlib.core.layout import Layout
from slimlib.core.setting import slimming_of
from slimlib.core.swapping import SwapsOut, slim_class
from slimlib.core.tracing import cut_in_graph
from slimlib.core.width import Widths, by_size
from slimlib.rl.noise import NoiseOfAnyWidth, forget_samples
from slimlib.serving.freezing import CANNOT_TRAIN


class FrozenPolicy:
    """Mixin of a frozen policy, which is in eval mode and stays there."""

    def set_training_mode(self, mode: bool) -> None:
        if mode:
            raise RuntimeError(CANNOT_TRAIN)

    @property
    def device(self: Any) -> torch.device:
        modules = (module.__dict__ for module in self.modules())
        where: torch.device = next(m[name].device for m in modules for name in m.get("frozen_names", ()))
        return where


class SlimPolicy(SwapsOut):
    """Mixin of a slimmable policy."""

    frozen_mixins = (FrozenPolicy,)

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_exporting():
            with cut_in_graph(self):
                return nn.Module.__call__(self, *args, **kwargs)
        return nn.Module.__call__(self, *args, **kwargs)  # replaced parameters are looked for once a rollout

    modes: list[dict[str, Any]] | None = None

    def set_training_mode(self: Any, mode: bool) -> None:
        """As the policy's own, which visits every module, and which each `predict` calls."""
        if self.modes is None:
            plain = all(type(module).train is nn.Module.train for module in self.modules())
            self.__dict__["modes"] = self._modes_that_follow() if plain else []
        if not self.modes:
            super().set_training_mode(mode)  # type: ignore[misc]
        for attributes in self.modes:
            attributes["training"] = mode

    def _modes_that_follow(self: Any) -> list[dict[str, Any]]:
        """The attributes of the modules whose mode the policy sets: target networks, say, always stay in eval."""
        modules = list(self.modules())
        before = [module.training for module in modules]
        super().set_training_mode(False)  # type: ignore[misc]
        off = [module.training for module in modules]
        super().set_training_mode(True)  # type: ignore[misc]
        on = [module.training for module in modules]
        for module, mode in zip(modules, before, strict=True):
            module.__dict__["training"] = mode
        return [m.__dict__ for m, was, now in zip(modules, off, on, strict=True) if now and not was]

    def load_from_vector(self: Any, vector: np.ndarray) -> None:
        super().load_from_vector(vector)  # type: ignore[misc]
        self.slim.refresh()  # it replaces `parameter.data`

    def __getstate__(self: Any) -> dict[str, Any]:
        for module in self.modules():
            forget_samples(module.__dict__.get("action_dist"))
        return {name: value for name, value in super().__getstate__().items() if name != "modes"}


def make_slimmable(
    policy: BasePolicy, *, widths: Widths, options: Mapping[str, Any], layout: Layout | None = None
) -> BasePolicy:
    """Make a policy slimmable, in place; `slimlib.set_width(policy, width)` then sets what it acts with.

    Target networks stay full.

    Args:
        policy: an actor-critic (PPO, A2C), DQN or SAC policy of stable-baselines3, with any features extractor, with
            or without state-dependent noise.
        widths: what may be set; the largest must be 1.0, which the target networks have.
        options: further arguments of `slimlib.convert`, for example `divisor`.
        layout: of this very policy, where it is known.

    Raises:
        ValueError: the policy is of another family, or has a hidden layer with less than one unit at the
            smallest width; or what `convert` raises.
    """
    path = _path(policy)
    noise: list[Any] = [m.__dict__["action_dist"] for m in policy.modules() if "action_dist" in m.__dict__]
    for each in noise:
        forget_samples(each)
    smallest, largest = sorted((widths.smallest, widths.largest), key=by_size)
    if largest != 1.0:
        raise ValueError(
            f"the largest width must be 1.0, not {largest}; for a narrower policy make its net_arch smaller"
        )
    if layout is not None:
        check_layout(policy, layout)
        apply_layout(policy, layout, widths=widths)
    else:
        with _computing(policy, path), same_random_numbers(policy.device):
            convert(policy, path.example(policy), widths=widths, **options)
        assert isinstance(smallest, float)
        _check_units(policy, smallest)
    for each in noise:
        if isinstance(each, StateDependentNoiseDistribution):
            each.__class__ = NoiseOfAnyWidth
    policy.__class__ = slim_class(type(policy), (SlimPolicy,))
    return policy


class _Path:
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


PATHS: Mapping[type, _Path] = {
    ActorCriticPolicy: _Path(_actor_critic),
    DQNPolicy: _Path(_q_network),
    SACPolicy: _Path(_soft_actor_critic, takes_action=True),
}


def _path(policy: BasePolicy) -> _Path:
    found = next((path for family, path in PATHS.items() if isinstance(policy, family)), None)
    if found is None:
        raise ValueError(
            f"{type(policy).__name__} is no policy of PPO, A2C, DQN or SAC; make its networks slimmable one by one "
            "with slimlib.convert"
        )
    return found


@contextmanager
def _computing(policy: BasePolicy, path: _Path) -> Iterator[None]:
    """The policy's forward, which samples, is the deterministic path for a while."""
    policy.__dict__["forward"] = MethodType(path.forward, policy)
    try:
        yield
    finally:
        policy.__dict__.pop("forward", None)


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """What is drawn and seeded in the block changes nothing of what is drawn afterwards."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def _check_units(policy: BasePolicy, smallest: float) -> None:
    for group in slimming_of(policy).layout.groups:
        if group.units * smallest < 1:
            raise ValueError(
                f"layer '{group.name}' has {group.units} units, less than one at the smallest width {smallest:g}; "
                f"give it {int(np.ceil(1 / smallest))} or more in net_arch, or raise the smallest width to "
                f"{np.ceil(1000 / group.units) / 1000:g}"
            )


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
