"""Environments are found or refused with advice, and an episode is decided by its seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.atari_wrappers import ClipRewardEnv
from stable_baselines3.common.vec_env import VecNormalize

from tasks.rl import environments
from tasks.rl.environments import (
    check_environment,
    find_environment,
    make_environments,
    play,
    share_statistics,
)
from tasks.rl.settings import RlSettings
from tests.tasks.rl.toys import Dice

BOX, PICTURE = spaces.Box(-1, 1, (3,)), spaces.Box(0, 255, (40, 40, 3), np.uint8)
SMALL = spaces.Box(0, 255, (1, 10, 35), np.uint8)
ATARI = {"environment": "BreakoutNoFrameskip-v4", "policy": "CnnPolicy", "atari": True, "frame_stack": 4}


@pytest.fixture
def toy() -> Iterator[Any]:
    """Registers Dice with other spaces, and returns its id."""

    def register(**options: Any) -> str:
        gymnasium.register("ToyDice-v0", entry_point=Dice, kwargs=options)
        return "ToyDice-v0"

    yield register
    gymnasium.registry.pop("ToyDice-v0", None)


def balance(observations: np.ndarray) -> np.ndarray:
    """Keeps the pole of CartPole up for a while."""
    return (observations[:, 2] > 0).astype(np.int64)


def seed_everything() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("CartPol-v1", "unknown environment 'CartPol-v1'; did you mean CartPole-v1"),
        ("LunarLander-v2", "LunarLander-v3"),
        ("qqqqqqqqqqqq", "pprint_registry"),
        ("no_such_package:Thing-v0", "No module named 'no_such_package'; install it"),
        ("Hopper-v3", "data.environment=Hopper-v3 cannot be made: "),
    ],
)
def test_unknown_environments(environment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check_environment(RlSettings(environment=environment))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("environment", "needs"),
    [
        ("LunarLander-v3", r"Box2D: pip install 'slimlib\[box2d\]'"),
        ("Hopper-v5", r"mujoco: pip install 'slimlib\[mujoco\]'"),
        ("ALE/Nothing-v5", r"ale_py: pip install 'slimlib\[atari\]'"),
        ("NothingNoFrameskip-v4", r"ale_py: pip install 'slimlib\[atari\]'"),
    ],
)
def test_missing_packages_are_named(environment: str, needs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"Box2D", "mujoco", "ale_py"}
    monkeypatch.setattr(environments, "find_spec", lambda name: None if name in missing else find_spec(name))
    with pytest.raises(ValueError, match=needs):
        find_environment(environment)


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({}, {"algorithm": "sac"}, "its actions are Discrete, sac takes Box; set task.algorithm=ppo or a2c or dqn"),
        ({"actions": BOX}, {"algorithm": "dqn"}, "dqn takes Discrete; set task.algorithm=ppo or a2c or sac"),
        ({"actions": spaces.Dict({"a": BOX})}, {}, "none of the algorithms can"),
        ({"actions": spaces.Box(-np.inf, np.inf, (1,))}, {}, "have no bounds"),
        (
            {"actions": spaces.Discrete(3, start=1)},
            {},
            r"actions in .* are Discrete\(3, start=1\), and .* count from 0",
        ),
        ({"actions": spaces.MultiDiscrete([2, 2], start=[0, 1])}, {}, "actions in .* begin with 0"),
        ({"actions": spaces.Box(-1, 1, ())}, {}, r"actions in .* are single numbers, of shape \(\); wrap"),
        ({"observation": spaces.Discrete(4, start=1)}, {}, "observations in .* begin with 0"),
        ({"observation": spaces.Box(-1, 1, ())}, {}, r"observations in .* so that their shape is \(1,\)"),
        (
            {"observation": SMALL},
            {"policy": "CnnPolicy"},
            "its images are 10 x 35, .* needs 36 x 36; set .*=MinAtarCNN",
        ),
        (
            {"observation": spaces.Dict({"a": SMALL})},
            {"policy": "MultiInputPolicy"},
            "its images are 10 x 35, and NatureCNN needs 36 x 36; wrap it so that they are larger",
        ),
        ({}, {"policy": "CnnPolicy"}, "no images"),
        ({}, {"policy": "MultiInputPolicy"}, "set task.policy=MlpPolicy, or CnnPolicy for images"),
        ({"observation": spaces.Dict({"a": BOX})}, {}, "set task.policy=MultiInputPolicy"),
        ({"observation": spaces.Tuple([BOX])}, {}, "observations in ToyDice-v0 are Tuple; policies take Box"),
        ({"observation": spaces.Dict({"a": spaces.Text(3)})}, {"policy": "MultiInputPolicy"}, "are Text in Dict"),
        ({"observation": spaces.Discrete(3)}, {"normalize": True}, "no vector to normalise"),
        ({"observation": PICTURE}, {"normalize": True}, "no vector to normalise"),
        ({"observation": spaces.Discrete(3)}, {"frame_stack": 2}, "set task.frame_stack=1"),
        ({}, {"atari": True}, "is not an Atari game; set task.atari=false"),
        ({}, {"options": {"side": 6}}, "cannot be made with task.options={'side': 6}"),
    ],
)
def test_what_cannot_be_played_is_refused(toy: Any, options: dict[str, Any], settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_environment(RlSettings(environment=toy(**options), **settings))


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, {"algorithm": "dqn", "normalize": True}),
        ({"actions": BOX}, {"algorithm": "sac"}),
        ({"actions": spaces.MultiBinary(3)}, {"algorithm": "a2c"}),
        ({"observation": PICTURE}, {"policy": "CnnPolicy"}),
        ({"observation": spaces.Dict({"a": BOX, "b": PICTURE})}, {"policy": "MultiInputPolicy", "normalize": True}),
    ],
)
def test_what_can_be_played_is_made(toy: Any, options: dict[str, Any], settings: Any) -> None:
    given = RlSettings(environment=toy(**options), **settings)
    check_environment(given)
    made = make_environments(given, seed=0, count=2, training=True)
    assert made.num_envs == 2


def test_pictures_have_their_channels_first(toy: Any) -> None:
    given = RlSettings(environment=toy(observation=PICTURE), policy="CnnPolicy", frame_stack=2)
    for training in (True, False):
        made = make_environments(given, seed=0, count=1, training=training)
        assert made.observation_space.shape == (6, 40, 40)


def test_a_game_that_skips_frames_is_not_skipped_again() -> None:
    pytest.importorskip("ale_py", reason="Atari games")
    with pytest.raises(ValueError, match="so does ALE/Breakout-v5: choose the game's NoFrameskip-v4"):
        check_environment(RlSettings(**{**ATARI, "environment": "ALE/Breakout-v5"}))
    check_environment(RlSettings(**{**ATARI, "environment": "ALE/Breakout-v5", "options": {"frameskip": 1}}))


def test_copies_have_seeds_of_their_own() -> None:
    made = make_environments(RlSettings(), seed=3, count=3, training=True)
    alone = [make_environments(RlSettings(), seed=3 + i, count=1, training=True) for i in range(3)]
    np.testing.assert_array_equal(made.reset(), np.concatenate([one.reset() for one in alone]))
    drawn = [space.sample() for space in made.get_attr("action_space") for _ in range(20)]
    assert drawn == [space.sample() for one in alone for space in one.get_attr("action_space") for _ in range(20)]


def test_a_score_is_decided_by_its_seed() -> None:
    seeds = [5, 6, 7, 900, 6]
    scores = []
    for copies in (1, 2, 5):
        made = make_environments(RlSettings(), seed=copies, count=copies, training=False)
        scores.append(play(balance, made, seeds, limit=500))
        scores.append(play(balance, made, seeds, limit=500))
    assert all(score == scores[0] for score in scores) and scores[0][1] == scores[0][4]
    assert len(set(scores[0])) > 1


def test_no_seeds_no_scores() -> None:
    assert play(balance, make_environments(RlSettings(), seed=0, count=1, training=False), [], limit=5) == []


def test_an_episode_is_cut_at_the_limit() -> None:
    made = make_environments(RlSettings(environment="Pendulum-v1"), seed=0, count=2, training=False)

    def still(observations: np.ndarray) -> np.ndarray:
        return np.zeros((len(observations), 1), np.float32)

    whole, cut = play(still, made, range(3), limit=200), play(still, made, range(3), limit=100)
    assert all(-2000 < a < b < 0 for a, b in zip(whole, cut, strict=True))


def test_playing_leaves_the_global_generators_alone() -> None:
    made = make_environments(RlSettings(), seed=0, count=2, training=False)

    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    def anything(observations: np.ndarray) -> np.ndarray:
        return np.array([int(sum(draw()) > 1.5) for _ in observations])

    seed_everything()
    expected = draw()
    seed_everything()
    first = play(anything, made, [1, 2, 3], limit=500)
    assert draw() == expected
    assert play(anything, made, [1, 2, 3], limit=500) == first


def test_scores_are_neither_normalised_nor_clipped() -> None:
    plain = make_environments(RlSettings(), seed=0, count=1, training=False)
    normalised = make_environments(RlSettings(normalize=True), seed=0, count=1, training=False)
    assert isinstance(normalised, VecNormalize)
    before = normalised.obs_rms.count
    assert play(balance, normalised, [1], limit=500) == play(balance, plain, [1], limit=500)
    assert not normalised.norm_reward
    assert normalised.obs_rms.count == before


def test_statistics_are_shared_as_a_copy() -> None:
    train = make_environments(RlSettings(normalize=True), seed=0, count=2, training=True)
    score = make_environments(RlSettings(normalize=True), seed=0, count=1, training=False)
    train.reset()
    share_statistics(train, score)
    np.testing.assert_array_equal(score.obs_rms.mean, train.obs_rms.mean)
    shared = score.obs_rms.mean.copy()
    train.step(np.zeros(2, np.int64))
    np.testing.assert_array_equal(score.obs_rms.mean, shared)
    with pytest.raises(ValueError, match="only one of the environments normalises"):
        share_statistics(train, make_environments(RlSettings(), seed=0, count=1, training=False))
    share_statistics(*(make_environments(RlSettings(), seed=0, count=1, training=False) for _ in range(2)))


def test_discounting_is_the_algorithm_s() -> None:
    made = make_environments(RlSettings(normalize=True, hyperparameters={"gamma": 0.9}), seed=0, count=1, training=True)
    assert isinstance(made, VecNormalize) and made.gamma == 0.9


def test_only_training_clips_the_points_of_atari() -> None:
    pytest.importorskip("ale_py", reason="Atari games")
    for training in (True, False):
        made = make_environments(RlSettings(**ATARI), seed=0, count=1, training=training)
        assert made.env_is_wrapped(ClipRewardEnv) == [training]


def test_a_whole_game_of_atari_is_scored() -> None:
    pytest.importorskip("ale_py", reason="Atari games")
    made = make_environments(RlSettings(**ATARI), seed=0, count=2, training=False)
    lives = []

    def right(observations: np.ndarray) -> np.ndarray:
        assert observations.shape == (2, 4, 84, 84)
        lives.append(made.env_method("get_wrapper_attr", "unwrapped")[0].ale.lives())
        return np.full(len(observations), 2)

    scores = play(right, made, [5, 6, 7], limit=2000)
    assert {1, 2, 3, 4, 5} <= set(lives)
    assert scores == play(right, made, [5, 6, 7], limit=2000)
    assert scores[0] > 0 and len(lives) < 2000
