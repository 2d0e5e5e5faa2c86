"""Everything that decides a reinforcement learning run, checked once when it is made."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common import torch_layers
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule
from torch import nn, optim

from tasks.choices import as_tuple, check_choice, check_number, check_text, check_whole
from tasks.settings import unknown

ALGORITHMS: Mapping[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN, "sac": SAC}
POLICIES = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")
DATA = ("cartpole", "acrobot", "lunarlander", "pendulum", "halfcheetah", "hopper", "breakout", "pong", "environment")

# What a policy takes as an object, and plain settings name.
NAMED: Mapping[str, Mapping[str, type]] = {
    "activation_fn": {
        "tanh": nn.Tanh,
        "relu": nn.ReLU,
        "elu": nn.ELU,
        "leaky_relu": nn.LeakyReLU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
    },
    "optimizer_class": {
        "Adam": optim.Adam,
        "AdamW": optim.AdamW,
        "RMSprop": optim.RMSprop,
        "RMSpropTFLike": RMSpropTFLike,
        "SGD": optim.SGD,
    },
    "features_extractor_class": {
        name: getattr(torch_layers, name) for name in ("FlattenExtractor", "NatureCNN", "CombinedExtractor")
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


@dataclass(frozen=True)
class RlSettings:
    """Settings of the reinforcement learning task. The defaults are PPO on CartPole.

    Args:
        algorithm: "ppo", "a2c", "dqn" or "sac".
        environment: an id that is registered with gymnasium, for example "CartPole-v1"; "package:Id-v0" imports
            the package first.
        policy: "MlpPolicy", "CnnPolicy" (images) or "MultiInputPolicy" (dictionaries of observations).
        widths: the widths that are evaluated.
        divisor: channels are rounded to multiples of it.
        environments: copies that are played in parallel in training.
        normalize: whether observations and training rewards are divided by their running deviation.
        atari: whether the frames of an Atari game are prepared as usual: skipped, grey, 84 x 84.
        frame_stack: observations of this many steps are put together; 1: only the last.
        options: keyword arguments of `gymnasium.make`.
        hyperparameters: arguments of the algorithm's class in stable-baselines3, as plain data; `learning_rate` and
            `clip_range` may be "lin_0.001", linear to 0. None given: its defaults.
        episodes: played to evaluate each width.
        curve_points: how often the learning curve is measured in training; 0: never.
        curve_episodes: played for each point of it.
        deterministic: whether evaluation takes the likeliest action, not a random one.
        data: which of `DATA` chose the environment.
        root: nothing: environments ship with their packages.
        workers: 0: environments are stepped in this process; else each copy in one of its own, `environments` many.
        video: whether a film of a policy at three widths is made.

    Raises:
        ValueError: a value is impossible or without effect; the message names a right one.
    """

    algorithm: str = "ppo"
    environment: str = "CartPole-v1"
    policy: str = "MlpPolicy"
    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    divisor: int = 4
    environments: int = 8
    normalize: bool = False
    atari: bool = False
    frame_stack: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    episodes: int = 100
    curve_points: int = 10
    curve_episodes: int = 10
    deterministic: bool = True
    data: str = "cartpole"
    root: str = ""
    workers: int = 0
    video: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", as_tuple("task.widths", self.widths))
        for name, choices in (("algorithm", ALGORITHMS), ("policy", POLICIES), ("data", DATA)):
            check_choice(name if name == "data" else f"task.{name}", getattr(self, name), choices)
        for name, least in _WHOLE.items():
            check_whole(f"task.{name}", getattr(self, name), at_least=least)
        for width in self.widths:
            check_number(
                "task.widths", width, lambda v: 0 < v <= 1, "above 0 and at most 1, for example [0.25, 0.5, 1.0]"
            )
        for name in ("normalize", "atari", "deterministic", "video"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"task.{name}={getattr(self, name)!r} must be true or false")
        for name in ("options", "hyperparameters"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"task.{name}={getattr(self, name)!r} must be a mapping, for example {{gamma: 0.98}}")
        check_text("data.root", self.root)
        if not isinstance(self.environment, str) or not self.environment:
            raise ValueError(f"data.environment={self.environment!r} must be an id such as CartPole-v1")
        self._check_together()
        constructor_arguments(self)

    def _check_together(self) -> None:
        if not self.widths or len(set(self.widths)) < len(self.widths):
            raise ValueError(f"task.widths={list(self.widths)}: needs at least one width, each only once")
        if self.workers not in (0, self.environments):
            raise ValueError(
                f"task.workers={self.workers}: each copy has a process of its own; set task.workers="
                f"{self.environments}, as many as task.environments, or 0 to step all of them in this process"
            )
        if self.normalize and self.policy == "CnnPolicy":
            raise ValueError("task.normalize=true: CnnPolicy scales images by itself; set task.normalize=false")
        if self.atari and self.policy == "MultiInputPolicy":
            raise ValueError("task.atari=true makes images; set task.policy=CnnPolicy")
        if self.root:
            raise ValueError(f"data={self.data} ships with its package and would ignore data.root={self.root}")


_WHOLE = {
    "divisor": 1,
    "environments": 1,
    "frame_stack": 1,
    "episodes": 1,
    "curve_points": 0,
    "curve_episodes": 1,
    "workers": 0,
}


def constructor_arguments(settings: RlSettings) -> dict[str, Any]:
    """The hyperparameters as the algorithm's class takes them: schedules and classes in the place of their names.

    Raises:
        ValueError: one does not exist or cannot be read; the message names the nearest right one.
    """
    algorithm = ALGORITHMS[settings.algorithm]
    given = dict(settings.hyperparameters)
    _check_names("task.hyperparameters", given, _parameters(algorithm), settings.algorithm)
    for name in SCHEDULED:
        if name in given and given[name] is not None:
            given[name] = schedule(given[name])
    if isinstance(given.get("train_freq"), list):
        given["train_freq"] = tuple(given["train_freq"])  # [1, episode]: a tuple is what the class takes
    if given.get("policy_kwargs") is not None:
        given["policy_kwargs"] = _policy_arguments(settings, given["policy_kwargs"])
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


def _policy_arguments(settings: RlSettings, given: Any) -> dict[str, Any]:
    place = "task.hyperparameters.policy_kwargs"
    if not isinstance(given, Mapping):
        raise ValueError(f"{place}={given!r} must be a mapping, for example {{net_arch: [64, 64]}}")
    policy = ALGORITHMS[settings.algorithm].policy_aliases[settings.policy]
    _check_names(place, given, _parameters(policy), settings.policy)
    arguments = dict(given)
    for name, classes in NAMED.items():
        if name in given:
            check_choice(f"{place}.{name}", given[name], classes)
            arguments[name] = classes[given[name]]
    return arguments


def _check_names(place: str, given: Mapping[str, Any], parameters: Iterable[str], owner: str) -> None:
    """Raise ValueError where a name is no parameter, or none that can be given as plain data."""
    for name in given:
        if name in SET_ELSEWHERE:
            raise ValueError(f"{place}.{name} is no hyperparameter: {SET_ELSEWHERE[name]}")
        if name in OBJECTS:
            raise ValueError(f"{place}.{name} is an object, which settings cannot hold; leave it out")
        if name not in parameters:
            raise unknown(f"key of {place} for {owner}", name, parameters)


def _parameters(owner: type) -> list[str]:
    """The arguments of a class that may be hyperparameters."""
    names = [name for name in inspect.signature(owner).parameters if not name.startswith("_")]
    return [name for name in names if name not in SET_ELSEWHERE and name not in OBJECTS]
