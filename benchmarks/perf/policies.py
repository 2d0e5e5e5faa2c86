"""Policies of stable-baselines3: predicting, updating and collecting rollouts, slimmable against ordinary models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.timing import in_turn, ratio, take_turns, typical
from slimlib.rl import SlimA2C, SlimDQN, SlimPPO, SlimSAC

WIDTHS = (0.0625, 0.25, 0.5, 1.0)
SWITCHES = slim.Switches(*WIDTHS)  # a sandwich with n=4 draws just these in every update
SHORT = {"buffer_size": 2000, "learning_starts": 0, "batch_size": 64}
MODELS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "PPO": (SlimPPO, "CartPole-v1", {"n_steps": 32, "batch_size": 64, "n_epochs": 1}),
    "A2C": (SlimA2C, "CartPole-v1", {"n_steps": 32}),
    "DQN": (SlimDQN, "CartPole-v1", SHORT),
    "SAC": (SlimSAC, "Pendulum-v1", SHORT),
}
COPIES = 8
FULL_ROLLOUT = 0.97  # steps a second at full width, over those of the ordinary model


def policies(name: str, *, rounds: int) -> Iterator[Measurement]:
    """All measurements of one algorithm with its MlpPolicy."""
    yield from predict(name, rounds=rounds)
    yield from update(name, rounds=max(rounds // 3, 1))
    yield rollout(name, rounds=max(rounds // 3, 1))


def predict(name: str, *, rounds: int) -> Iterator[Measurement]:
    """`policy.predict` on one observation, in place and frozen, over the ordinary policy of the same channels."""
    model = _model(name)
    frozen = slim.freeze(model.policy, list(WIDTHS))
    seen = np.zeros(model.observation_space.shape, model.observation_space.dtype)
    for width in (WIDTHS[0], 0.25, WIDTHS[-1]):
        slim.set_width(model.policy, width)
        slim.set_width(frozen, width)
        compared = {"in place": model.policy, "frozen": frozen, "plain": model.extract(width).policy}
        expected = compared["plain"].predict(seen, deterministic=True)[0]
        for policy in compared.values():
            np.testing.assert_allclose(policy.predict(seen, deterministic=True)[0], expected, rtol=1e-4)
        runs = {key: lambda p=p: p.predict(seen, deterministic=True) for key, p in compared.items()}
        times = take_turns(runs, rounds=rounds)
        for key, limit in (("in place", 1.05), ("frozen", 0.90)):
            value, seconds = ratio(times, key, "plain"), typical(times["plain"])
            yield Measurement(
                f"predict {key}", f"{name} MlpPolicy", f"width {width:g}", value, limit=limit, seconds=seconds
            )


def update(name: str, *, rounds: int) -> Iterator[Measurement]:
    """An update with a sandwich of n=4, over the summed updates of an ordinary model of each of its widths."""
    for learns, distill in (("own loss", False), ("from the largest", True)):
        model = _model(name, distill=distill)
        plain = [_plain(model, width) for width in WIDTHS]
        runs = {"sandwich": _update(model), "plain": in_turn([_update(each) for each in plain])}
        times = take_turns(runs, rounds=rounds)
        value, seconds = ratio(times, "sandwich", "plain"), typical(times["plain"])
        yield Measurement("update", f"{name} MlpPolicy", f"n=4, {learns}", value, limit=1.05, seconds=seconds)


def rollout(name: str, *, rounds: int) -> Measurement:
    """Steps a second at full width, over those of the ordinary model, as the ratio of the times the other way round."""
    model = _model(name)
    times = take_turns({"slimmable": _rollout(model), "plain": _rollout(_plain(model, 1.0))}, rounds=rounds)
    value, seconds = ratio(times, "slimmable", "plain"), typical(times["plain"])
    setting, limit = f"full width, {COPIES} environments", 1 / FULL_ROLLOUT
    return Measurement("rollout time", f"{name} MlpPolicy", setting, value, limit=round(limit, 2), seconds=seconds)


def _model(name: str, **own: Any) -> Any:
    kind, environment, arguments = MODELS[name]
    copies = make_vec_env(environment, COPIES, seed=0)
    model = kind("MlpPolicy", copies, seed=0, device="cpu", widths=SWITCHES, samples=4, **arguments, **own)
    return _begun(model)


def _plain(model: Any, width: float) -> Any:
    """The ordinary model of a width, in environments of its own."""
    plain = model.extract(width)
    plain.set_env(make_vec_env(model.env.envs[0].spec.id, COPIES, seed=0))
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
