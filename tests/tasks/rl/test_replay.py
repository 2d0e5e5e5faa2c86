"""A restored environment goes on to the last bit as the one it was taken from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecEnv, VecNormalize

from tasks.rl.environments import make_environments
from tasks.rl.replay import NotReproducible, Replayed, environments_state, restore_environments
from tasks.rl.settings import RlSettings
from tests.tasks.rl.toys import Dice, HiddenDice, LoadedDice, Pushing

ATARI = {"policy": "CnnPolicy", "atari": True, "frame_stack": 4}
PACKAGES = {"LunarLander-v3": "Box2D", "Hopper-v5": "mujoco", "BreakoutNoFrameskip-v4": "ale_py"}


def actions(space: spaces.Space[Any], steps: int, copies: int, seed: int = 5) -> list[np.ndarray]:
    """The same random actions each time, [steps] of [copies, ...]."""
    sampled = deepcopy(space)
    sampled.seed(seed)
    return [np.stack([sampled.sample() for _ in range(copies)]) for _ in range(steps)]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)  # type: ignore[no-any-return]


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def assert_goes_on_alike(one: VecEnv, other: VecEnv, taken: Sequence[np.ndarray]) -> int:
    """Returns the number of episodes that ended meanwhile."""
    ended = 0
    for action in taken:
        (*first, infos), (*second, other_infos) = one.step(action), other.step(action)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
        for info, other_info in zip(infos, other_infos, strict=True):
            assert ("episode" in info) == ("episode" in other_info)
            if "episode" in info:
                assert [info["episode"][k] for k in "rl"] == [other_info["episode"][k] for k in "rl"]
            if "terminal_observation" in info:
                assert_same(info["terminal_observation"], other_info["terminal_observation"])
        ended += int(first[2].sum())
    assert one.action_space.sample() == pytest.approx(other.action_space.sample(), abs=0)
    return ended


@pytest.mark.parametrize(
    ("environment", "settings", "before", "after"),
    [
        ("CartPole-v1", {}, 100, 300),
        ("Acrobot-v1", {"normalize": True}, 700, 300),
        ("Pendulum-v1", {}, 250, 300),
        ("Pendulum-v1", {"normalize": True, "frame_stack": 3}, 250, 300),
        ("LunarLander-v3", {"normalize": True}, 350, 300),
        ("Hopper-v5", {"normalize": True}, 330, 300),
        ("BreakoutNoFrameskip-v4", ATARI, 60, 100),
        ("BreakoutNoFrameskip-v4", ATARI, 215, 100),
        ("BreakoutNoFrameskip-v4", {**ATARI, "options": {"repeat_action_probability": 0.25}}, 260, 100),
    ],
)
def test_restored_goes_on_as_the_original(environment: str, settings: dict[str, Any], before: int, after: int) -> None:
    if environment in PACKAGES:
        pytest.importorskip(PACKAGES[environment], reason=f"{environment} needs it")
    given = RlSettings(environment=environment, **settings)
    original = make_environments(given, seed=7, count=2, training=True)
    last = original.reset()
    taken = actions(original.action_space, before + after, 2)
    for action in taken[:before]:
        last = original.step(action)[0]
    restored = make_environments(given, seed=8, count=2, training=True)
    observations = restore_environments(restored, through_a_file(environments_state(original)))
    assert_same(observations, last)
    assert assert_goes_on_alike(original, restored, taken[before:]) > 0


def test_processes_restore_what_this_process_did() -> None:
    settings = {"environment": "Pendulum-v1", "normalize": True, "environments": 2}
    original = make_environments(RlSettings(**settings), seed=0, count=2, training=True)
    original.reset()
    taken = actions(original.action_space, 520, 2)
    for action in taken[:250]:
        original.step(action)
    restored = make_environments(RlSettings(**settings, workers=2), seed=1, count=2, training=True)
    try:
        restore_environments(restored, through_a_file(environments_state(original)))
        assert assert_goes_on_alike(original, restored, taken[250:]) > 0
    finally:
        restored.close()


def dice(kind: type[Dice] = Dice, *, pushing: bool = False, **spaces_: Any) -> VecEnv:
    def make() -> Replayed:
        env = Monitor(kind(**spaces_))
        return Replayed(Pushing(env) if pushing else env)

    made = DummyVecEnv([make, make])
    made.seed(3)
    return made


@pytest.mark.parametrize("pushing", [False, True])
def test_every_moment_can_be_restored(pushing: bool) -> None:
    original = dice(pushing=pushing)
    original.reset()
    taken = actions(original.action_space, 30, 2)
    states = []
    for action in taken:
        original.step(action)
        states.append(through_a_file(environments_state(original)))
    for moment, state in enumerate(states):
        restored = dice(pushing=pushing)
        restore_environments(restored, state)
        assert_same(environments_state(restored), state)
        for action, later in zip(taken[moment + 1 :], states[moment + 1 :], strict=True):
            restored.step(action)
            assert_same(environments_state(restored), later)


def test_the_memory_begins_anew_with_each_episode() -> None:
    original = dice()
    original.reset()
    for action in actions(original.action_space, 200, 2):
        original.step(action)
    for copy in environments_state(original)["copies"]:
        assert copy["history"]["actions"] is None or len(copy["history"]["actions"]) <= 6


def test_dictionaries_are_restored() -> None:
    class Pair(Dice):
        def _observe(self) -> Any:
            return {"throw": np.array([self._throw()]), "left": self.left}

    space = spaces.Dict({"throw": spaces.Box(0, 1, (1,), np.float64), "left": spaces.Discrete(7)})

    def normalised() -> VecEnv:
        return VecNormalize(dice(Pair, observation=space), norm_obs_keys=["throw"])

    original = normalised()
    last = original.reset()
    taken = actions(original.action_space, 60, 2)
    for action in taken[:20]:
        last = original.step(action)[0]
    restored = normalised()
    assert_same(restore_environments(restored, through_a_file(environments_state(original))), last)
    assert assert_goes_on_alike(original, restored, taken[20:]) > 0


def test_a_seed_that_waits_for_the_next_reset_is_restored() -> None:
    original, restored = dice(), dice()
    original.reset()
    original.seed(11)
    restore_environments(restored, environments_state(original))
    assert_same(restored.reset(), original.reset())


def test_before_the_first_reset_there_is_nothing_to_replay() -> None:
    original, restored = dice(), dice()
    restored.seed(4)
    assert restore_environments(restored, through_a_file(environments_state(original))) is None
    assert_same(restored.reset(), original.reset())


@pytest.mark.parametrize(
    ("kind", "what"), [(LoadedDice, "its observation is another"), (HiddenDice, "its random generator is another")]
)
def test_hidden_randomness_is_noticed(kind: type[Dice], what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = dice(kind)
    original.reset()
    while not all(copy["history"]["actions"] is not None for copy in environments_state(original)["copies"]):
        original.step(np.zeros(2, np.int64))
    state = environments_state(original)
    if kind is HiddenDice:  # some part of it draws more than it did
        monkeypatch.setattr(Dice, "_throw", lambda self: float(self.np_random.random(2)[0]))
    with pytest.raises(NotReproducible, match=f"{what}.: it draws from elsewhere than np_random"):
        restore_environments(dice(kind), state)


def test_statistics_come_back_where_episodes_cannot() -> None:
    original, restored = VecNormalize(dice(LoadedDice)), VecNormalize(dice(LoadedDice))
    original.reset()
    for action in actions(original.action_space, 20, 2):
        original.step(action)
    with pytest.raises(NotReproducible):
        restore_environments(restored, environments_state(original))
    assert_same(vars(restored.obs_rms), vars(original.obs_rms))
    assert_same(vars(restored.ret_rms), vars(original.ret_rms))
    restored.reset()


def test_another_course_is_noticed() -> None:
    original = dice()
    original.reset()
    while environments_state(original)["copies"][0]["history"]["actions"] is None:
        original.step(np.zeros(2, np.int64))
    state = environments_state(original)
    state["copies"][0]["history"]["actions"] = torch.zeros(50, dtype=torch.int64)
    with pytest.raises(NotReproducible, match="Tried to step environment that needs reset"):
        restore_environments(dice(), state)


def test_other_environments_are_refused() -> None:
    state = environments_state(dice())
    with pytest.raises(NotReproducible, match=r"is of 2 copies in \[\], not of 2 in \['VecNormalize'\]"):
        restore_environments(VecNormalize(dice()), state)
    with pytest.raises(NotReproducible, match="VecCheckNan around environments cannot be restored"):
        environments_state(VecCheckNan(dice()))
