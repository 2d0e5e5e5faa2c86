"""The narrow policy of one width, said in the arguments of stable-baselines3, which then builds it by itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import Tensor, nn

from slimlib.core.random_numbers import own_random_numbers
from slimlib.rl.narrowed_extractor import NarrowedExtractor

__all__ = ["NarrowedExtractor", "narrow_policy_kwargs"]
NUMBERS = (
    *("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features"),
    *("num_channels", "num_groups", "normalized_shape", "num_parameters", "embedding_dim"),
)
"""Attributes by which layers tell of their channels: those of `slimlib.core.numbers`."""


class Parts(NamedTuple):
    """What of a policy depends on its width.

    Attributes:
        net_arch: hidden units, as the policy's constructor takes them.
        extractors: name -> features extractor; stable-baselines3 builds all of them alike.
        first: the layer that the features go into.
    """

    net_arch: Any
    extractors: Mapping[str, BaseFeaturesExtractor]
    first: nn.Linear


class Narrowness(NamedTuple):
    """How a features extractor differs from the one that its class builds."""

    shapes: dict[str, tuple[int, ...]]
    numbers: dict[str, dict[str, Any]]


def narrow_policy_kwargs(extracted: nn.Module, full_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The `policy_kwargs` with which stable-baselines3 builds a policy as narrow as this one.

    A model built with them, and with the state of `extracted`, acts as that does. Target networks are not looked at:
    in `extracted` they are those of the full policy.

    Args:
        extracted: what `slimlib.extract(policy, width)` made of an actor-critic (PPO, A2C), DQN or SAC policy.
        full_kwargs: the `policy_kwargs` of the full policy.

    Raises:
        ValueError: a part of the policy is not built by stable-baselines3 from its arguments, or two parts that
            it builds alike differ.
    """
    policy, parts = _parts(extracted)
    kwargs = {**full_kwargs, "net_arch": parts.net_arch}
    found = {name: _narrowness(policy, extractor) for name, extractor in parts.extractors.items()}
    _refuse_unlike(found, "features extractors")
    narrowness = next(iter(found.values()))
    if any(narrowness):
        kwargs["features_extractor_class"] = NarrowedExtractor
        kwargs["features_extractor_kwargs"] = {
            "base": policy.features_extractor_class,
            "base_kwargs": dict(policy.features_extractor_kwargs),
            "features_dim": parts.first.in_features,
            **narrowness._asdict(),
        }
    return kwargs


def _parts(policy: nn.Module) -> tuple[BasePolicy, Parts]:
    if isinstance(policy, ActorCriticPolicy):
        return policy, _actor_critic(policy)
    if isinstance(policy, DQNPolicy):
        return policy, _q_network(policy)
    if isinstance(policy, SACPolicy):
        return policy, _soft_actor_critic(policy)
    raise ValueError(f"{type(policy).__name__} is no policy of PPO, A2C, DQN or SAC")


def _actor_critic(policy: ActorCriticPolicy) -> Parts:
    _refuse_custom(policy, "mlp_extractor", MlpExtractor)
    pi, vf = policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net
    extractors = {"pi_features_extractor": policy.pi_features_extractor}
    if not policy.share_features_extractor:
        extractors["vf_features_extractor"] = policy.vf_features_extractor
    return Parts({"pi": _units(pi), "vf": _units(vf)}, extractors, _first(pi, policy.action_net))


def _q_network(policy: DQNPolicy) -> Parts:
    _refuse_custom(policy, "q_net", QNetwork)
    net = policy.q_net.q_net
    return Parts(_units(net)[:-1], {"q_net": policy.q_net.features_extractor}, _first(net))


def _soft_actor_critic(policy: SACPolicy) -> Parts:
    _refuse_custom(policy, "actor", Actor)
    _refuse_custom(policy, "critic", ContinuousCritic)
    actor, critic = policy.actor, policy.critic
    critics = {f"critic.qf{index}": _units(net)[:-1] for index, net in enumerate(critic.q_networks)}
    _refuse_unlike(critics, "critics")
    extractors = {"actor": actor.features_extractor}
    if not policy.share_features_extractor:
        extractors["critic"] = critic.features_extractor
    arch = {"pi": _units(actor.latent_pi), "qf": critics["critic.qf0"]}
    return Parts(arch, extractors, _first(actor.latent_pi, actor.mu))


def _units(net: nn.Module) -> list[int]:
    return [layer.out_features for layer in net.modules() if isinstance(layer, nn.Linear)]


def _first(*nets: nn.Module) -> nn.Linear:
    return next(layer for net in nets for layer in net.modules() if isinstance(layer, nn.Linear))


def _narrowness(policy: BasePolicy, extractor: BaseFeaturesExtractor) -> Narrowness:
    names = _tensors(extractor)
    if not names:
        return Narrowness({}, {})
    built = _as_built(policy)
    full = _tensors(built)
    if full.keys() != names.keys():
        raise ValueError(
            f"{type(extractor).__name__} builds {_listed(full.keys() - names.keys())} and has "
            f"{_listed(names.keys() - full.keys())} when it is narrow; a narrow one cannot be built. "
            "Does it use weight_norm? Extract the policy itself, with slimlib.extract(model.policy, width)"
        )
    shapes = {name: tuple(t.shape) for name, t in names.items() if t.shape != full[name].shape}
    numbers = {name: _changed(module, built.get_submodule(name)) for name, module in extractor.named_modules()}
    return Narrowness(shapes, {name: values for name, values in numbers.items() if values})


def _as_built(policy: BasePolicy) -> BaseFeaturesExtractor:
    """The extractor as its class builds it; nothing that is drawn for it changes what is drawn afterwards."""
    space = copy.deepcopy(policy.observation_space)
    with own_random_numbers():
        return policy.features_extractor_class(space, **policy.features_extractor_kwargs)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    parameters, buffers = (f(remove_duplicate=False) for f in (module.named_parameters, module.named_buffers))
    return dict(parameters) | dict(buffers)


def _changed(narrow: nn.Module, full: nn.Module) -> dict[str, Any]:
    known = [name for name in NUMBERS if name in vars(full)]
    return {name: vars(narrow)[name] for name in known if vars(narrow)[name] != vars(full)[name]}


def _refuse_custom(policy: BasePolicy, name: str, known: type) -> None:
    part = getattr(policy, name)
    if type(part) is not known:
        raise ValueError(
            f"'{name}' of this {type(policy).__name__} is a {type(part).__name__} of its own, not the "
            f"{known.__name__} that stable-baselines3 builds from net_arch, so a narrow one cannot be built. "
            "Extract the policy itself, with slimlib.extract(model.policy, width)"
        )


def _refuse_unlike(parts: Mapping[str, Any], what: str) -> None:
    (first, wanted), *others = parts.items()
    for name, found in others:
        if found != wanted:
            raise ValueError(
                f"the {what} '{first}' and '{name}' have other channels at this width, and stable-baselines3 builds "
                "them alike; give their groups in the WidthPlan the same channels"
            )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
