"""Hyperparameters as plain settings have them, and as the algorithms of stable-baselines3 take them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from stable_baselines3.common import torch_layers
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule
from torch import nn, optim

from slimlib.rl import SlimA2C, SlimDQN, SlimPPO, SlimSAC
from tasks.rl.minatar import MinAtarCNN
from tasks.settings import unknown

ALGORITHMS: Mapping[str, Any] = {"ppo": SlimPPO, "a2c": SlimA2C, "dqn": SlimDQN, "sac": SlimSAC}
"""The slimmable algorithms; the ordinary one is `plain` of each."""

# What a policy takes as an object, and plain settings name.
OPTIMIZERS = (optim.Adam, optim.AdamW, optim.RMSprop, RMSpropTFLike, optim.SGD)
NAMED: Mapping[str, Mapping[str, type]] = {
    "activation_fn": {kind.__name__.lower(): kind for kind in (nn.Tanh, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU)}
    | {"leaky_relu": nn.LeakyReLU},
    "optimizer_class": {kind.__name__: kind for kind in OPTIMIZERS},
    "features_extractor_class": {
        "FlattenExtractor": torch_layers.FlattenExtractor,
        "NatureCNN": torch_layers.NatureCNN,
        "CombinedExtractor": torch_layers.CombinedExtractor,
        "MinAtarCNN": MinAtarCNN,
    },
}
SCHEDULED = ("learning_rate", "clip_range")

# Arguments of an algorithm or a policy that are no hyperparameters, and where they come from instead.
SET_ELSEWHERE: Mapping[str, str] = {
    "policy": "set task.policy",
    "env": "set data.environment",
    "seed": "set seeds",
    "device": "set device",
    "verbose": "the runner shows the progress",
    "tensorboard_log": "the runner records the learning curve",
    "observation_space": "the environment decides it",
    "action_space": "the environment decides it",
    "lr_schedule": "set task.hyperparameters.learning_rate",
}
OBJECTS = ("action_noise", "replay_buffer_class", "rollout_buffer_class")  # plain settings cannot name one


def constructor_arguments(algorithm: str, policy: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters as the algorithm's class takes them: schedules and classes in the place of their names.

    Args:
        algorithm: one of `ALGORITHMS`; `policy`: the name of one of its policies.

    Raises:
        ValueError: one does not exist or cannot be read; the message names the nearest right one.
    """
    given = dict(hyperparameters)
    _check_names("task.hyperparameters", given, _parameters(ALGORITHMS[algorithm].plain), algorithm)
    for name in SCHEDULED:
        if name in given and given[name] is not None:
            given[name] = schedule(given[name])
    if isinstance(given.get("train_freq"), list):
        given["train_freq"] = tuple(given["train_freq"])  # [1, episode]: a tuple is what the class takes
    if given.get("policy_kwargs") is not None:
        given["policy_kwargs"] = _policy_arguments(algorithm, policy, given["policy_kwargs"])
    return given


def schedule(value: object) -> float | LinearSchedule:
    """A number as it is; "lin_0.001" as a schedule that falls linearly from 0.001 to 0.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str) and value.startswith("lin_"):
        try:
            return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
        except ValueError:
            pass
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"cannot read the schedule {value!r}; write a number such as 0.001, or lin_0.001 (linear to 0)")


def _policy_arguments(algorithm: str, policy: str, given: Any) -> dict[str, Any]:
    place = "task.hyperparameters.policy_kwargs"
    if not isinstance(given, Mapping):
        raise ValueError(f"{place}={given!r} must be a mapping, for example {{net_arch: [64, 64]}}")
    _check_names(place, given, _parameters(ALGORITHMS[algorithm].plain.policy_aliases[policy]), policy)
    arguments = dict(given)
    for name, classes in NAMED.items():
        if name in given:
            if given[name] not in list(classes):
                raise unknown(f"{place}.{name}", given[name], classes)
            arguments[name] = classes[given[name]]
    return arguments


def _check_names(place: str, given: Mapping[str, Any], parameters: Iterable[str], owner: str) -> None:
    """Raise ValueError where a name is no parameter, or none that can be given as plain data."""
    for name in given:
        if name in SET_ELSEWHERE:
            raise ValueError(f"{place}.{name} is not a hyperparameter: {SET_ELSEWHERE[name]}")
        if name in OBJECTS:
            raise ValueError(f"{place}.{name} is an object, which settings cannot hold; leave it out")
        if name not in parameters:
            raise unknown(f"key of {place} for {owner}", name, parameters)


def _parameters(owner: type) -> list[str]:
    """The arguments of a class that may be hyperparameters."""
    names = [name for name in inspect.signature(owner).parameters if not name.startswith("_")]
    return [name for name in names if name not in SET_ELSEWHERE and name not in OBJECTS]
