"""Environments come back exactly where they were: what has happened since their last reset is done once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations


class NotReproducible(Exception):
    """An environment did not come back to where it was; BipedalWalker-v3 for one keeps its world for all episodes."""


def environments_state(environments: VecEnv) -> dict[str, Any]:
    """Where environments are, each wrapped in `Replayed`: numbers, strings, lists, dictionaries and tensors.

    Raises:
        NotReproducible: one of the wrappers around all of them is unknown.
    """
    wrappers = [[type(wrapper).__name__, _wrapper_state(wrapper)] for wrapper in _wrappers(environments)]
    state = {
        "copies": environments.env_method("state"),
        "wrappers": wrappers,
        "actions": _generator_state(environments.action_space.np_random),
        "seeds": list(environments.unwrapped._seeds),
    }
    return converted(state, np.ndarray, lambda array: torch.from_numpy(array.copy()))  # type: ignore[no-any-return]


def restore_environments(environments: VecEnv, state: Mapping[str, Any]) -> Any:
    """Bring freshly made environments to where `environments_state` found others of the same settings.

    A long episode takes a while: it is played once more. The global random generators are drawn from where an
    environment draws from them, and should be restored after this.

    Returns:
        The last observations, as a step or reset returned them; None where there had been no reset.

    Raises:
        NotReproducible: the environments are others, or one of them has randomness of its own or a memory of earlier
            episodes. In the second case all else is restored, such as statistics, and a reset begins new episodes.
    """
    state = converted(state, torch.Tensor, lambda tensor: tensor.numpy().copy())
    base, wrappers = environments.unwrapped, _wrappers(environments)
    copies, names = state["copies"], [name for name, _ in state["wrappers"]]
    if len(copies) != base.num_envs or names != [type(wrapper).__name__ for wrapper in wrappers]:
        own = [type(wrapper).__name__ for wrapper in wrappers]
        raise NotReproducible(f"the state is of {len(copies)} copies in {names}, not of {base.num_envs} in {own}")
    attempts = [base.env_method("attempt", copy, indices=index)[0] for index, copy in enumerate(copies)]
    observations, problems = zip(*attempts, strict=True)
    base._seeds = list(state["seeds"])
    _restore_generator(environments.action_space.np_random, state["actions"])
    batch = None if any(observation is None for observation in observations) else _batch(base, observations)
    for wrapper, (_, own_state) in zip(wrappers, state["wrappers"], strict=True):
        batch = _restore_wrapper(wrapper, own_state, batch)
    for problem in filter(None, problems):
        raise NotReproducible(problem)
    return batch


@dataclass
class _History:
    """What was done to an environment.

    Attributes:
        start: its randomness before.
        resets: (how many steps came before it, its arguments) of each.
        actions: of the steps.
    """

    start: dict[str, Any]
    resets: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)


class Replayed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Remembers what was done since the innermost environment was last reset, so that it can be done once more.

    A reset that a wrapper only pretends (after a lost life) is part of what was done. So is one that comes in the
    middle of a wrapper's own steps: then the memory reaches back to the reset before.

    Args:
        env: with all its wrappers. Only what they keep from before a reset cannot be restored.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._history: _History | None = None
        self._observation: Any = None
        self._innermost = ""  # what the innermost environment was asked for first, in this call
        self._listen("reset")
        self._listen("step")

    def _listen(self, name: str) -> None:
        method = getattr(self.unwrapped, name)

        @wraps(method)
        def heard(*args: Any, **kwargs: Any) -> Any:
            self._innermost = self._innermost or name
            return method(*args, **kwargs)

        setattr(self.unwrapped, name, heard)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and forget what was before unless the innermost environment goes on."""
        start = _randomness(self.unwrapped)
        self._innermost = ""
        observation, info = self.env.reset(seed=seed, options=options)
        if self._history is None or self._innermost == "reset":
            self._history = _History(start)
        self._history.resets.append((len(self._history.actions), {"seed": seed, "options": options}))
        self._observation = observation
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and remember the action."""
        taken = np.array(action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        assert self._history is not None  # a step before the first reset has failed
        self._history.actions.append(taken)
        self._observation = observation
        return observation, reward, terminated, truncated, info

    def state(self) -> dict[str, Any]:
        """Where the environment is, and how it came there: plain values and arrays."""
        actions = _generator_state(self.action_space.np_random)
        if self._history is None:
            return {"history": None, "actions": actions}
        history = {
            "start": self._history.start,
            "resets": [[steps, arguments] for steps, arguments in self._history.resets],
            "actions": np.stack(self._history.actions) if self._history.actions else None,
        }
        end = {"observation": _arrays(self._observation), "randomness": _randomness(self.unwrapped)}
        return {"history": history, "actions": actions, "end": end}

    def restore(self, state: Mapping[str, Any]) -> Any:
        """Bring a freshly made environment to where `state` was taken.

        Returns:
            The last observation; None where there had been no reset.

        Raises:
            NotReproducible: it ends elsewhere.
        """
        _restore_generator(self.action_space.np_random, state["actions"])
        if state["history"] is None:
            return None
        _restore_randomness(self.unwrapped, state["history"]["start"])
        steps = self._replay(state["history"])
        end = state["end"]
        for what, now, before in (
            ("observation", _arrays(self._observation), end["observation"]),
            ("random generator", _randomness(self.unwrapped), end["randomness"]),
        ):
            if not _equal(now, before):
                raise NotReproducible(f"after {steps} replayed steps its {what} is another")
        return self._observation

    def attempt(self, state: Mapping[str, Any]) -> tuple[Any, str]:
        """`restore` across processes, which exceptions do not leave: the observation, and what went wrong or ""."""
        try:
            return self.restore(state), ""
        except Exception as error:  # any can follow from an episode that has taken another course
            kept = "it draws from elsewhere than np_random, or keeps something from one episode to the next"
            return None, f"{self._name} did not come back to where it was ({error}): {kept}"

    def _replay(self, history: Mapping[str, Any]) -> int:
        """Do it all once more; returns the number of steps."""
        actions = () if history["actions"] is None else history["actions"]
        resets = [*history["resets"], [len(actions), None]]
        for (first, arguments), (last, _) in pairwise(resets):
            self.reset(**arguments)
            for action in actions[first:last]:
                self.step(action)
        return len(actions)

    @property
    def _name(self) -> str:
        return "the environment" if self.unwrapped.spec is None else self.unwrapped.spec.id


def _randomness(env: Any) -> dict[str, Any]:
    """What decides how an environment goes on after a reset: its generator, and the state of an Atari console."""
    console = getattr(env, "ale", None)
    memory = None if console is None else np.frombuffer(console.cloneState(include_rng=True).__getstate__(), np.uint8)
    return {"generator": _generator_state(env.np_random), "console": memory}


def _restore_randomness(env: Any, randomness: Mapping[str, Any]) -> None:
    _restore_generator(env.np_random, randomness["generator"])
    if randomness["console"] is not None:
        state_class = type(env.ale.cloneState())
        env.ale.restoreState(state_class(randomness["console"].tobytes()))


def _generator_state(generator: np.random.Generator) -> dict[str, Any]:
    return dict(generator.bit_generator.state)


def _restore_generator(generator: np.random.Generator, state: Mapping[str, Any]) -> None:
    generator.bit_generator.state = dict(state)


def _wrappers(environments: VecEnv) -> list[VecEnvWrapper]:
    """Around all environments, innermost first."""
    found = []
    while isinstance(environments, VecEnvWrapper):
        found.append(environments)
        environments = environments.venv
    return found[::-1]


def _wrapper_state(wrapper: VecEnvWrapper) -> Any:
    if isinstance(wrapper, VecFrameStack):
        return _frames(wrapper.stacked_obs)
    if isinstance(wrapper, VecNormalize):
        statistics = {name: _moments(vars(wrapper).get(name)) for name in ("obs_rms", "ret_rms")}
        return {**statistics, "returns": wrapper.returns, "old_reward": wrapper.old_reward}
    if isinstance(wrapper, VecTransposeImage):
        return None
    raise NotReproducible(f"{type(wrapper).__name__} around environments cannot be restored")


def _restore_wrapper(wrapper: VecEnvWrapper, state: Any, batch: Any) -> Any:
    """Restore the state; returns the last observations [N, ...] as they leave the wrapper, from those that enter it."""
    if isinstance(wrapper, VecFrameStack):
        frames = _restore_frames(wrapper.stacked_obs, state)
        return None if batch is None else frames
    if isinstance(wrapper, VecNormalize):
        for name in ("obs_rms", "ret_rms"):
            _restore_moments(vars(wrapper).get(name), state[name])
        wrapper.returns, wrapper.old_reward = state["returns"], state["old_reward"]
        if batch is None:
            return None
        wrapper.old_obs = batch
        return wrapper.normalize_obs(batch)
    assert isinstance(wrapper, VecTransposeImage)
    return None if batch is None else wrapper.transpose_observations(batch)


def _frames(stack: StackedObservations[Any]) -> Any:
    """The stacked observations: an array [N, ...], or one a key."""
    parts = getattr(stack, "sub_stacked_observations", None)
    return stack.stacked_obs if parts is None else {key: _frames(part) for key, part in parts.items()}


def _restore_frames(stack: StackedObservations[Any], frames: Any) -> Any:
    if isinstance(frames, Mapping):
        return {key: _restore_frames(stack.sub_stacked_observations[key], part) for key, part in frames.items()}
    stack.stacked_obs = frames
    return frames


def _moments(statistics: RunningMeanStd | Mapping[str, RunningMeanStd] | None) -> Any:
    if statistics is None:
        return None
    if isinstance(statistics, Mapping):
        return {key: _moments(part) for key, part in statistics.items()}
    return [np.asarray(statistics.mean), np.asarray(statistics.var), float(statistics.count)]


def _restore_moments(statistics: RunningMeanStd | Mapping[str, RunningMeanStd] | None, moments: Any) -> None:
    if isinstance(statistics, Mapping):
        for key, part in statistics.items():
            _restore_moments(part, moments[key])
    elif statistics is not None:
        statistics.mean, statistics.var, statistics.count = moments


def _batch(base: VecEnv, observations: Sequence[Any]) -> Any:
    """The observations of all copies, as the innermost VecEnv returns them: [N, ...], or one a key."""
    if isinstance(base, DummyVecEnv):
        for index, observation in enumerate(observations):
            base._save_obs(index, observation)
        return base._obs_from_buf()
    if isinstance(base.observation_space, spaces.Dict):
        return {key: np.stack([observation[key] for observation in observations]) for key in base.observation_space}
    return np.stack(observations)


def _arrays(observation: Any) -> Any:
    """A copy of an observation, of arrays."""
    if isinstance(observation, Mapping):
        return {key: _arrays(part) for key, part in observation.items()}
    return np.array(observation)


def _equal(a: Any, b: Any) -> bool:
    """Whether two states are the same to the last bit; NaN equals NaN."""
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    return bool(a == b)


def converted(tree: Any, kind: type, convert: Any) -> Any:
    """Plain data with everything of one kind converted."""
    if isinstance(tree, kind):
        return convert(tree)
    if isinstance(tree, Mapping):
        return {key: converted(part, kind, convert) for key, part in tree.items()}
    if isinstance(tree, list | tuple):
        return [converted(part, kind, convert) for part in tree]
    return tree
