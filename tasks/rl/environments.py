"""The environments that agents are trained and scored in: found, checked, made and played."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.atari_wrappers import AtariWrapper, EpisodicLifeEnv
from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
    unwrap_vec_normalize,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from slimlib.core.random_numbers import own_random_numbers
from tasks.rl.minatar import MinAtarImages
from tasks.rl.replay import Replayed
from tasks.rl.settings import RlSettings

ACTIONS: Mapping[str, tuple[type[spaces.Space[Any]], ...]] = {
    "ppo": (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
    "a2c": (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
    "dqn": (spaces.Discrete,),
    "sac": (spaces.Box,),
}
SMALLEST_IMAGE = 36  # side of what passes through the three convolutions of NatureCNN
OBSERVATIONS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

# Where the class of an environment lives -> the package that it needs, and the extra that installs it.
NEEDS = {
    "gymnasium.envs.box2d": ("Box2D", "box2d"),
    "gymnasium.envs.mujoco": ("mujoco", "mujoco"),
    "ale_py": ("ale_py", "atari"),
    "minatar": ("minatar", "minatar"),
}
UNREGISTERED = {re.compile(r"ALE/|.*(NoFrameskip|Deterministic)-v\d+$"): "ale_py", re.compile("MinAtar/"): "minatar"}
"""Ids that gymnasium does not know without their package -> where the class of such an environment lives."""


def check_environment(settings: RlSettings) -> None:
    """Raise ValueError where the environment does not exist, or the algorithm and policy cannot play it."""
    find_environment(settings.environment)
    with closing(_make_copy(settings, seed=0, training=False)) as env:
        _check_actions(settings, env.action_space)
        _check_observations(settings, env.observation_space)


def find_environment(environment: str) -> None:
    """Make sure that gymnasium knows the environment; games of Atari and MinAtar are registered when one is asked for.

    Raises:
        ValueError: it knows none of that id, or a package is missing; the message names the nearest id or the package.
    """
    package, _, name = environment.rpartition(":")
    if package:
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            raise ValueError(f"data.environment={environment}: {error}; install it, or correct the name") from None
    if name not in gymnasium.registry and find_spec("ale_py") is not None:
        import ale_py

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner of every copy
        gymnasium.register_envs(ale_py)
    if name not in gymnasium.registry and name.startswith("MinAtar/") and find_spec("minatar") is not None:
        from minatar.gym import register_envs

        register_envs()
    spec = gymnasium.registry.get(name)
    home = str(spec.entry_point) if spec else next((p for ids, p in UNREGISTERED.items() if ids.match(name)), "")
    for place, (needed, extra) in NEEDS.items():
        if home.startswith(place) and find_spec(needed) is None:
            raise ValueError(f"data.environment={name} needs the package {needed}: pip install 'slimlib[{extra}]'")
    if spec is None:
        close = get_close_matches(name, gymnasium.registry, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(close)}?" if close else "gymnasium.pprint_registry() lists all there are"
        raise ValueError(f"unknown environment '{name}'; {advice}")


def make_environments(settings: RlSettings, *, seed: int, count: int, training: bool) -> VecEnv:
    """Copies of the environment, wrapped as the settings say.

    Args:
        settings: which environment.
        seed: of the first copy; the next have the next.
        count: how many copies.
        training: True: they can be restored (`tasks.rl.replay`), and statistics of `normalize` move. False: rewards
            are those of the environment, and statistics are as `share_statistics` set them.

    Raises:
        ValueError: the environment cannot be made.
    """
    makers: list[Callable[[], gymnasium.Env[Any, Any]]] = [
        partial(_make_copy, settings, seed=seed + index, training=training) for index in range(count)
    ]
    environments: VecEnv = Processes(makers) if settings.workers else DummyVecEnv(makers)
    if settings.frame_stack > 1:
        environments = VecFrameStack(environments, settings.frame_stack)
    if any(_is_channels_last(space) for space in _parts(environments.observation_space)):
        environments = VecTransposeImage(environments)
    if settings.normalize:
        space = environments.observation_space
        environments = VecNormalize(
            environments,
            training=training,
            norm_reward=training,
            gamma=settings.hyperparameters.get("gamma", 0.99),
            norm_obs_keys=_normalized(space) if isinstance(space, spaces.Dict) else None,
        )
    environments.seed(seed)
    return environments


def share_statistics(source: VecEnv, target: VecEnv) -> None:
    """Let `target` normalise observations as `source` does now; nothing where neither normalises.

    Raises:
        ValueError: only one of them does.
    """
    given, taken = unwrap_vec_normalize(source), unwrap_vec_normalize(target)
    if (given is None) != (taken is None):
        raise ValueError("only one of the environments normalises observations; make both with the same settings")
    if given is not None and taken is not None:
        taken.obs_rms = deepcopy(given.obs_rms)


def play(
    predict: Callable[[Any], np.ndarray], environments: VecEnv, seeds: Sequence[int], *, limit: int
) -> list[float]:
    """The undiscounted return of one episode for each seed, neither clipped nor normalised.

    The global random generators are seeded by the first seed, and put back afterwards.

    Args:
        predict: observations [N, ...] -> actions [N, ...].
        environments: N copies, made for evaluation.
        seeds: of the episodes; each is played from its first step by one of the copies.
        limit: after this many steps an episode is cut; its return so far counts.
    """
    returns: list[float] = []
    count = environments.num_envs
    with own_random_numbers(seeds[0] if seeds else 0):
        for first in range(0, len(seeds), count):
            returns += _play_batch(predict, environments, seeds[first : first + count], limit)
    return returns


class Processes(SubprocVecEnv):
    """Each copy in a process of its own, with the rewards of a `DummyVecEnv` to the last bit."""

    def step_wait(self) -> VecEnvStepReturn:
        """As a `DummyVecEnv`, which keeps rewards in float32."""
        observations, rewards, dones, infos = super().step_wait()
        return observations, rewards.astype(np.float32), dones, infos


class WholeGames(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A reset with a seed begins a new game, also where lives of the old one are left.

    A lost life ends an episode in evaluation, too: what serves the next ball is the reset that follows, and agents
    have not learned to. The score is that of the whole game all the same, which `Monitor` sees.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a new game with a seed; go on with the next life without one."""
        lives = unwrap_wrapper(self.env, EpisodicLifeEnv)
        if seed is not None and isinstance(lives, EpisodicLifeEnv):
            lives.was_real_done = True
        return self.env.reset(seed=seed, options=options)


def _make_copy(settings: RlSettings, *, seed: int, training: bool) -> gymnasium.Env[Any, Any]:
    find_environment(settings.environment)  # also in a process of its own
    options = dict(settings.options)
    try:
        env = gymnasium.make(settings.environment, **options)
    except Exception as error:  # the class of the environment may raise anything
        given, reason = f" with task.options={options}" if options else "", " ".join(str(error).split())
        raise ValueError(f"data.environment={settings.environment} cannot be made{given}: {reason}") from error
    if str(env.spec and env.spec.entry_point).startswith("minatar."):
        env = MinAtarImages(env)
    env = Monitor(env)  # inside the next, so that it sees whole games and their true score
    if settings.atari:
        _check_atari(settings.environment, env.unwrapped)
        env = AtariWrapper(env, clip_reward=training)
        env = env if training else WholeGames(env)
    env.action_space.seed(seed)
    return Replayed(env) if training else env


def _play_batch(
    predict: Callable[[Any], np.ndarray], environments: VecEnv, seeds: Sequence[int], limit: int
) -> list[float]:
    """One episode for each of at most N seeds; the copies that are left over play the last seed, for nothing."""
    returns: dict[int, float] = {}
    # VecEnv.seed gives the copies consecutive seeds only.
    environments.unwrapped._seeds = [*seeds, *[seeds[-1]] * (environments.num_envs - len(seeds))]
    observations = environments.reset()
    for _ in range(limit):
        observations, _, _, infos = environments.step(predict(observations))
        for index in range(len(seeds)):
            if index not in returns and "episode" in infos[index]:
                returns[index] = float(infos[index]["episode"]["r"])
        if len(returns) == len(seeds):
            break
    for index in set(range(len(seeds))) - returns.keys():
        returns[index] = float(sum(environments.get_attr("rewards", index)[0]))
    return [returns[index] for index in range(len(seeds))]


def _check_actions(settings: RlSettings, space: spaces.Space[Any]) -> None:
    own = settings.algorithm
    if not isinstance(space, ACTIONS[own]):
        takes = " or ".join(kind.__name__ for kind in ACTIONS[own])
        able = [name for name, kinds in ACTIONS.items() if isinstance(space, kinds)]
        advice = f"set task.algorithm={' or '.join(able)}" if able else "none of the algorithms can"
        raise ValueError(
            f"task.algorithm={own} cannot act in {settings.environment}: its actions are {type(space).__name__}, "
            f"{own} takes {takes}; {advice}"
        )
    _check_numbers("actions", settings.environment, space)
    if isinstance(space, spaces.Box) and not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(f"actions in {settings.environment} have no bounds; wrap it so that they are finite")


def _check_observations(settings: RlSettings, space: spaces.Space[Any]) -> None:
    name, policy, parts = settings.environment, settings.policy, _parts(space)
    for part in parts:
        if not isinstance(part, OBSERVATIONS):
            raise ValueError(
                f"observations in {name} are {type(part).__name__}{' in Dict' if part is not space else ''}; policies "
                f"take {', '.join(kind.__name__ for kind in OBSERVATIONS)}, or a Dict of them"
            )
        _check_numbers("observations", name, part)
    if isinstance(space, spaces.Dict) != (policy == "MultiInputPolicy"):
        right = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy, or CnnPolicy for images"
        raise ValueError(
            f"task.policy={policy} cannot see {name}: it observes {type(space).__name__}; set task.policy={right}"
        )
    if policy == "CnnPolicy" and not is_image_space(space):
        raise ValueError(
            f"task.policy=CnnPolicy cannot see {name}: it observes {space}, no images (Box of 3 dimensions, uint8, "
            f"0 to 255); set task.policy=MlpPolicy"
        )
    small = next((part for part in parts if is_image_space(part) and min(_sides(part)) < SMALLEST_IMAGE), None)
    if small is not None and _sees_by_nature_cnn(settings):
        own = "task.hyperparameters.policy_kwargs.features_extractor_class=MinAtarCNN, or task.policy=MlpPolicy"
        advice = f"set {own}" if policy == "CnnPolicy" else "wrap it so that they are larger"
        raise ValueError(
            f"task.policy={policy} cannot see {name}: its images are {' x '.join(map(str, _sides(small)))}, and "
            f"NatureCNN needs {SMALLEST_IMAGE} x {SMALLEST_IMAGE}; {advice}"
        )
    boxes = [part for part in parts if isinstance(part, spaces.Box)]
    if settings.normalize and not [part for part in boxes if not is_image_space(part)]:
        raise ValueError(
            f"task.normalize=true: {name} observes {space}, no vector to normalise; set task.normalize=false"
        )
    if settings.frame_stack > 1 and len(boxes) < len(parts):
        raise ValueError(
            f"task.frame_stack={settings.frame_stack}: {name} observes {space}, not only Box; set task.frame_stack=1"
        )


def _check_numbers(what: str, name: str, space: spaces.Space[Any]) -> None:
    """Raise ValueError where policies of stable-baselines3 would take a space for another one."""
    if np.any(getattr(space, "start", 0)):
        raise ValueError(f"{what} in {name} are {space}, and policies count from 0; wrap it so that they begin with 0")
    if isinstance(space, spaces.Box) and not space.shape:
        raise ValueError(f"{what} in {name} are single numbers, of shape (); wrap it so that their shape is (1,)")


def _sees_by_nature_cnn(settings: RlSettings) -> bool:
    chosen = (settings.hyperparameters.get("policy_kwargs") or {}).get("features_extractor_class")
    return settings.policy != "MlpPolicy" and chosen in (None, "NatureCNN", "CombinedExtractor")


def _check_atari(name: str, env: Any) -> None:
    """Raise ValueError unless it is a game whose every frame can be seen."""
    if not hasattr(env, "ale"):
        raise ValueError(f"task.atari=true: {name} is not an Atari game; set task.atari=false")
    if env.spec.kwargs.get("frameskip", 4) != 1:
        raise ValueError(
            f"task.atari=true skips frames, and so does {name}: choose the game's NoFrameskip-v4, "
            "or add +task.options.frameskip=1"
        )


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    """The spaces of a Dict, or the space itself."""
    return list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]


def _sides(image: Any) -> tuple[int, int]:
    """Height and width."""
    height, width = image.shape[:2] if _is_channels_last(image) else image.shape[1:]
    return height, width


def _is_channels_last(space: spaces.Space[Any]) -> bool:
    return is_image_space(space) and not is_image_space_channels_first(space)  # type: ignore[arg-type]


def _normalized(space: spaces.Dict) -> list[str]:
    """The keys of vectors; images are scaled by the policy."""
    return [key for key, part in space.spaces.items() if isinstance(part, spaces.Box) and not is_image_space(part)]
