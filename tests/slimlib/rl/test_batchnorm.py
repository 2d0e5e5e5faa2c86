"""BatchNorm in policies: what cannot run while they are trained is refused before, and the remedies work."""

import gymnasium
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

import slimlib as slim
from slimlib.rl import SlimEvalCallback
from tests.slimlib.rl.models import KINDS, model

RANGE = {"widths": slim.WidthRange(0.25, 1.0), "rule": "sandwich"}


class Normed(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 16)
        self.net = nn.Sequential(nn.Linear(observation_space.shape[0], 16), nn.BatchNorm1d(16), nn.ReLU())

    def forward(self, seen):
        return self.net(seen)


def normed(name, norm="universal", **changes):
    kwargs = {"features_extractor_class": Normed, "net_arch": [8]}
    return model(name, policy_kwargs=kwargs, convert_options={"norm": norm}, **changes)


def evaluating(name):
    environment = Monitor(gymnasium.make(KINDS[name][1], max_episode_steps=8))
    return SlimEvalCallback(environment, [0.25, 1.0], eval_freq=16, n_eval_episodes=1, verbose=0)


@pytest.mark.parametrize(
    ("name", "changes", "remedy"),
    [
        ("PPO", {}, "{'norm': 'shared'} or 'switchable', whose"),
        ("PPO", RANGE, "{'norm': 'shared'}, whose"),
        ("DQN", {}, "{'norm': 'shared'}, whose"),
    ],
)
def test_what_acts_or_is_evaluated_at_a_width_without_statistics_is_refused_first(name, changes, remedy):
    for behaviour in ("smallest", "sampled", 0.5):
        with pytest.raises(ValueError, match=f"behaviour={behaviour!r} needs BatchNorm statistics of narrow.*{remedy}"):
            normed(name, behaviour=behaviour, **changes)
    trained = normed(name, behaviour=1.0, **changes)
    with pytest.raises(ValueError, match=f"SlimEvalCallback needs BatchNorm statistics.*{remedy}"):
        trained.learn(24, callback=evaluating(name))
    assert trained.num_timesteps == 0


@pytest.mark.parametrize(
    ("name", "norm"), [("PPO", "shared"), ("PPO", "switchable"), ("DQN", "shared"), ("SAC", "shared")]
)
def test_with_learned_statistics_narrow_widths_act_and_are_evaluated(name, norm):
    evaluation = evaluating(name)
    normed(name, norm, behaviour="smallest").learn(24, callback=evaluation)
    assert evaluation.last_mean_rewards.keys() == {0.25, 1.0}


def test_parameters_of_switches_are_trained():
    slimmable = normed("PPO", "switchable")
    before = {key: p.clone() for key, p in slimmable.policy.named_parameters() if "_at_" in key}
    slimmable.learn(32)
    assert before
    assert not any(torch.equal(before[key], p) for key, p in slimmable.policy.named_parameters() if key in before)


@pytest.mark.parametrize("name", ["DQN", "SAC"])
def test_switches_that_a_target_network_cannot_follow_are_refused(name):
    with pytest.raises(ValueError, match=r"_target.*cannot follow: it is always full. .*{'norm': 'shared'}"):
        normed(name, "switchable")


def test_full_width_of_a_calibrated_policy_is_an_ordinary_model(tmp_path):
    slimmable = normed("PPO").learn(32)
    slim.calibrate(slimmable.policy, [torch.randn(32, 4)], widths=[0.25])
    slimmable.extract(1.0).save(tmp_path / "model")
    plain = PPO.load(tmp_path / "model", device="cpu")
    seen = torch.randn(5, 4)
    ours, theirs = (each.policy.eval().get_distribution(seen).distribution.logits for each in (slimmable, plain))
    assert torch.equal(ours, theirs)
