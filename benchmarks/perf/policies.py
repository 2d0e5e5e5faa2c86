"""Policies of stable-baselines3: predicting, updating, collecting rollouts and training, slimmable against ordinary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import NatureCNN

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.timing import in_turn, ratio, take_turns, typical
from slimlib.core.width import Width
from slimlib.rl import SlimA2C, SlimDQN, SlimPPO, SlimSAC
from tasks.rl.minatar import MinAtarCNN

SIXTEENTHS = slim.Switches(0.0625, 0.25, 0.5, 1.0)
QUARTERS = slim.Switches(0.25, 0.5, 0.75, 1.0)
SHORT = {"buffer_size": 2000, "learning_starts": 0, "batch_size": 64}
COPIES = 8
FULL_ROLLOUT = 0.97  # steps a second at full width, over those of the ordinary model


@dataclass(frozen=True)
class Policy:
    """What is measured.

    Attributes:
        widths: of the network; a sandwich with n=4 draws just these in every update.
        update_limit: an update over the summed updates of an ordinary model of each of its widths.
        training_limit: a rollout and its update over those of the ordinary model at full width; None: not measured.
    """

    kind: Any
    environment: Any
    arguments: dict[str, Any]
    policy: str = "MlpPolicy"
    widths: slim.Switches = SIXTEENTHS
    update_limit: float = 1.05
    training_limit: float | None = None
    policy_kwargs: dict[str, Any] = field(default_factory=dict)


def _images(side: int, channels: int) -> Any:
    """An environment of random images, as MinAtar's or as Atari's four frames."""
    return partial(FakeImageEnv, screen_height=side, screen_width=side, n_channels=channels, channel_first=True)


ON_POLICY = {"n_steps": 32, "batch_size": 64, "n_epochs": 1}
TUNED = {"n_steps": 32, "batch_size": 256, "n_epochs": 20}  # rl-baselines3-zoo, hyperparams/ppo.yml
IMAGES: dict[str, Any] = {"policy": "CnnPolicy", "widths": QUARTERS, "update_limit": 1.02}
MODELS: dict[str, Policy] = {
    "PPO": Policy(SlimPPO, "CartPole-v1", ON_POLICY),
    "A2C": Policy(SlimA2C, "CartPole-v1", {"n_steps": 32}),
    "DQN": Policy(SlimDQN, "CartPole-v1", SHORT),
    "SAC": Policy(SlimSAC, "Pendulum-v1", SHORT),
    "PPO, tuned": Policy(SlimPPO, "CartPole-v1", TUNED, training_limit=2.5),
    "PPO, MinAtarCNN": Policy(
        SlimPPO,
        _images(10, 4),
        ON_POLICY,
        policy_kwargs={"features_extractor_class": MinAtarCNN, "net_arch": []},
        **IMAGES,
    ),
    "PPO, NatureCNN": Policy(
        SlimPPO, _images(84, 4), ON_POLICY, policy_kwargs={"features_extractor_class": NatureCNN}, **IMAGES
    ),
}


def policies(name: str, *, rounds: int) -> Iterator[Measurement]:
    """All measurements of one algorithm and policy."""
    few = max(rounds // 3, 1)
    if MODELS[name].training_limit is not None:
        yield training(name, rounds=few)
        return
    yield from predict(name, rounds=rounds)
    yield from update(name, rounds=few)
    if MODELS[name].policy == "MlpPolicy":
        yield rollout(name, rounds=few)


def predict(name: str, *, rounds: int) -> Iterator[Measurement]:
    """`policy.predict` on one observation, in place and frozen, over the ordinary policy of the same channels."""
    model, widths = _model(name), MODELS[name].widths
    frozen = slim.freeze(model.policy, list(widths.widths))
    seen = np.zeros(model.observation_space.shape, model.observation_space.dtype)
    for width in dict.fromkeys((widths.smallest, 0.25, widths.largest)):
        slim.set_width(model.policy, width)
        slim.set_width(frozen, width)
        compared = {"in place": model.policy, "frozen": frozen, "plain": model.extract(width).policy}
        expected = compared["plain"].predict(seen, deterministic=True)[0]
        for policy in compared.values():
            np.testing.assert_allclose(policy.predict(seen, deterministic=True)[0], expected, rtol=1e-4)
        runs = {key: lambda p=p: p.predict(seen, deterministic=True) for key, p in compared.items()}
        times = take_turns(runs, rounds=rounds)
        for key, limit in (("in place", 1.05), ("frozen", 0.90 if MODELS[name].policy == "MlpPolicy" else 1.0)):
            value, seconds = ratio(times, key, "plain"), typical(times["plain"])
            yield Measurement(f"predict {key}", _shown(name), f"width {width:g}", value, limit=limit, seconds=seconds)


def update(name: str, *, rounds: int) -> Iterator[Measurement]:
    """An update with a sandwich of n=4, over the summed updates of an ordinary model of each of its widths."""
    for learns, distill in (("own loss", False), ("from the largest", True)):
        model = _model(name, distill=distill)
        plain = [_plain(model, name, width) for width in MODELS[name].widths.widths]
        runs = {"sandwich": _update(model), "plain": in_turn([_update(each) for each in plain])}
        times = take_turns(runs, rounds=rounds)
        value, seconds = ratio(times, "sandwich", "plain"), typical(times["plain"])
        limit = MODELS[name].update_limit
        yield Measurement("update", _shown(name), f"n=4, {learns}", value, limit=limit, seconds=seconds)


def rollout(name: str, *, rounds: int) -> Measurement:
    """Steps a second at full width, over those of the ordinary model, as the ratio of the times the other way round."""
    model = _model(name)
    times = take_turns({"slimmable": _rollout(model), "plain": _rollout(_plain(model, name, 1.0))}, rounds=rounds)
    value, seconds = ratio(times, "slimmable", "plain"), typical(times["plain"])
    setting, limit = f"full width, {COPIES} environments", 1 / FULL_ROLLOUT
    return Measurement("rollout time", _shown(name), setting, value, limit=round(limit, 2), seconds=seconds)


def training(name: str, *, rounds: int) -> Measurement:
    """A rollout and its update with a sandwich of n=4, over those of the ordinary model."""
    model = _model(name)
    plain = _plain(model, name, 1.0)
    runs = {key: in_turn([_rollout(each), _update(each)]) for key, each in (("slimmable", model), ("plain", plain))}
    times = take_turns(runs, rounds=rounds)
    value, seconds = ratio(times, "slimmable", "plain"), typical(times["plain"])
    limit = MODELS[name].training_limit
    return Measurement("training time", _shown(name), "n=4, from the largest", value, limit=limit, seconds=seconds)


def _shown(name: str) -> str:
    return f"{name} {MODELS[name].policy}"


def _environments(name: str) -> Any:
    return make_vec_env(MODELS[name].environment, COPIES, seed=0)


def _model(name: str, **own: Any) -> Any:
    what = MODELS[name]
    settings = {"seed": 0, "device": "cpu", "widths": what.widths, "policy_kwargs": dict(what.policy_kwargs)}
    return _begun(what.kind(what.policy, _environments(name), **settings, **what.arguments, **own))


def _plain(model: Any, name: str, width: Width) -> Any:
    """The ordinary model of a width, in environments of its own."""
    plain = model.extract(width)
    plain.set_env(_environments(name))
    return _begun(plain)


def _begun(model: Any) -> Any:
    """A model that has something to update from."""
    model.set_logger(Logger(folder=None, output_formats=[]))
    model._setup_learn(10_000_000)
    for _ in range(1 if hasattr(model, "rollout_buffer") else 40):
        _rollout(model)()
    model._update_current_progress_remaining(0, 1)
    return model


def _rollout(model: Any) -> Callable[[], object]:
    callback = model._init_callback(None)
    callback.on_training_start({}, {})
    if hasattr(model, "rollout_buffer"):
        return lambda: model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=32)
    return lambda: model.collect_rollouts(
        model.env, train_freq=model.train_freq, callback=callback, learning_starts=0, replay_buffer=model.replay_buffer
    )


def _update(model: Any) -> Callable[[], object]:
    return model.train if hasattr(model, "rollout_buffer") else lambda: model.train(gradient_steps=4, batch_size=64)
