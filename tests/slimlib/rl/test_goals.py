"""Hindsight: replay buffers that put other goals in the place of those that were missed."""

import numpy as np
import pytest
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import slimlib as slim
from slimlib.rl import SlimDQN, SlimSAC
from tests.slimlib.rl.models import same_parameters


def model(kind, **changes):
    bits = {"n_bits": 4, "continuous": kind is SlimSAC}
    settings = {
        "replay_buffer_class": HerReplayBuffer,
        "replay_buffer_kwargs": {"n_sampled_goal": 4, "goal_selection_strategy": "future"},
        "policy_kwargs": {"net_arch": [64]},
        "learning_starts": 100,
        "buffer_size": 5000,
        "learning_rate": 1e-3,
        "gamma": 0.95,
        "seed": 0,
        "device": "cpu",
    }
    environment = DummyVecEnv([lambda: Monitor(BitFlippingEnv(**bits))])
    return kind("MultiInputPolicy", environment, **settings | changes)


@pytest.mark.parametrize("goals", ["future", "final", "episode"])
@pytest.mark.parametrize("kind", [SlimDQN, SlimSAC])
def test_every_choice_of_goals_trains(kind, goals):
    trained = model(kind, replay_buffer_kwargs={"n_sampled_goal": 2, "goal_selection_strategy": goals}).learn(150)
    for width in (0.25, 1.0):
        slim.set_width(trained.policy, width)
        evaluate_policy(trained, trained.env, 1)


@pytest.mark.nightly
def test_bits_are_flipped_to_the_goal():
    trained = model(SlimDQN, train_freq=1, target_update_interval=100).learn(2500)
    reward, _ = evaluate_policy(trained, trained.env, 20)
    assert reward > -3  # of -4 at the most: every bit is right after so many steps


@pytest.mark.parametrize("kind", [SlimDQN, SlimSAC])
def test_training_goes_on_with_the_saved_buffer(kind, tmp_path):
    trained = model(kind).learn(150)
    trained.save(tmp_path / "model")
    trained.save_replay_buffer(tmp_path / "buffer")
    loaded = kind.load(tmp_path / "model", env=trained.env, device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=False)
    assert same_parameters(trained, loaded)
    assert isinstance(loaded.replay_buffer, HerReplayBuffer)
    np.testing.assert_array_equal(loaded.replay_buffer.rewards, trained.replay_buffer.rewards)
    loaded.learn(100, reset_num_timesteps=False)
