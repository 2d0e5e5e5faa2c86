"""Impossible settings are refused in one line that says what is right; possible ones reach stable-baselines3."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn

from benchmarks.settings.choices import content
from tasks.rl.hyperparameters import ALGORITHMS, constructor_arguments, schedule
from tasks.rl.settings import RlSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithm": "pp0"}, "unknown task.algorithm 'pp0'; did you mean 'ppo'"),
        ({"policy": "CNNPolicy"}, "did you mean 'CnnPolicy'"),
        ({"data": "lunar"}, "did you mean 'lunarlander'"),
        ({"environment": ""}, "data.environment='' must be text that is not empty, for example CartPole-v1"),
        ({"widths": [0.5, 1.5]}, "task.widths=1.5 must be a number above 0"),
        ({"widths": [0.5, 0.5]}, "each only once"),
        ({"widths": []}, "task.widths=.* must be a list .at least one"),
        ({"widths": 0.5}, "must be a list"),
        ({"divisor": 0}, "task.divisor=0 must be a whole number, at least 1"),
        ({"environments": 0}, "task.environments=0 must be a whole number, at least 1"),
        ({"frame_stack": 0}, "task.frame_stack=0 must be a whole number, at least 1"),
        ({"episodes": 2.5}, "task.episodes=2.5 must be a whole number"),
        ({"curve_points": -1}, "task.curve_points=-1 must be a whole number, at least 0"),
        ({"curve_episodes": 0}, "task.curve_episodes=0 must be"),
        ({"deterministic": "yes"}, "task.deterministic='yes' must be true or false"),
        ({"workers": 2, "environments": 8}, "set task.workers=8, as many as task.environments, or 0"),
        ({"root": "here"}, "would ignore data.root=here"),
        ({"normalize": True, "policy": "CnnPolicy"}, "set task.normalize=false"),
        ({"atari": True, "policy": "MultiInputPolicy"}, "set task.policy=CnnPolicy"),
        ({"options": "gravity"}, "task.options='gravity' must be keys and values"),
        ({"hyperparameters": [1]}, "must be keys and values, for example {gamma: 0.98}"),
        ({"hyperparameters": {"n_step": 5}}, "hyperparameters for ppo 'n_step'; did you mean 'n_steps'"),
        ({"hyperparameters": {"clip_range": 0.2}, "algorithm": "a2c"}, "for a2c 'clip_range'"),
        ({"hyperparameters": {"seed": 3}}, "task.hyperparameters.seed is not a hyperparameter: set seeds"),
        ({"hyperparameters": {"policy": "MlpPolicy"}}, "set task.policy"),
        ({"hyperparameters": {"env": "CartPole-v1"}}, "set data.environment"),
        ({"hyperparameters": {"device": "cpu"}}, "set device"),
        ({"hyperparameters": {"verbose": 1}}, "the runner shows"),
        ({"hyperparameters": {"tensorboard_log": "x"}}, "the runner records"),
        ({"hyperparameters": {"action_noise": "normal"}, "algorithm": "sac"}, "action_noise is an object"),
        ({"hyperparameters": {"learning_rate": "linear_0.1"}}, "cannot read the schedule 'linear_0.1'"),
        ({"hyperparameters": {"policy_kwargs": [64]}}, "policy_kwargs=.* must be a mapping"),
        ({"hyperparameters": {"policy_kwargs": {"net_arc": [8]}}}, "for MlpPolicy 'net_arc'; did you mean 'net_arch'"),
        ({"hyperparameters": {"policy_kwargs": {"activation_fn": "Tanh"}}}, "'Tanh'; did you mean 'tanh'"),
        ({"hyperparameters": {"policy_kwargs": {"lr_schedule": 1}}}, "set task.hyperparameters.learning_rate"),
    ],
)
def test_impossible_values(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        RlSettings(**settings)
    assert "\n" not in str(error.value)


def test_lists_become_tuples() -> None:
    assert RlSettings(widths=[0.5, 1.0]).widths == (0.5, 1.0)  # type: ignore[arg-type]


def test_a_schedule_falls_to_zero() -> None:
    falling = schedule("lin_2.5e-4")
    assert not isinstance(falling, float)
    assert [falling(left) for left in (1.0, 0.5, 0.0)] == pytest.approx([2.5e-4, 1.25e-4, 0.0])
    assert schedule(1) == 1.0


@pytest.mark.parametrize("value", ["lin_", "lin_fast", "0.1", True, None, [1]])
def test_what_is_no_schedule_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="write a number such as 0.001, or lin_0.001"):
        schedule(value)


def test_names_become_what_the_algorithm_takes() -> None:
    policy = {"net_arch": {"pi": [8], "vf": [16]}, "activation_fn": "relu", "optimizer_class": "RMSpropTFLike"}
    given = {"clip_range": "lin_0.2", "policy_kwargs": policy, "gamma": 0.9}
    arguments = constructor_arguments("ppo", "MlpPolicy", given)
    assert arguments["clip_range"](0.5) == 0.1 and arguments["gamma"] == 0.9
    assert arguments["policy_kwargs"] == {**policy, "activation_fn": nn.ReLU, "optimizer_class": RMSpropTFLike}
    assert policy["activation_fn"] == "relu"


def test_a_training_frequency_may_be_in_episodes() -> None:
    given = {"train_freq": [1, "episode"]}
    assert constructor_arguments("sac", "MlpPolicy", given) == {"train_freq": (1, "episode")}


@pytest.mark.parametrize("name", get_args(RlSettings.model_fields["data"].annotation))
def test_every_data_file_is_complete(name: str) -> None:
    data = content("data", name)
    assert set(data["steps"]) == {"tiny", "small", "paper"}
    assert data["algorithm"] in data["algorithms"] and set(data["algorithms"]) <= set(ALGORITHMS)
    said = {key: value for key, value in data.items() if key in RlSettings.model_fields}
    for algorithm, own in data["algorithms"].items():
        RlSettings(**said | own | {"algorithm": algorithm, "data": name})
