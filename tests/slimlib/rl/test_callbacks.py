"""Callbacks compare the same width each time, whichever acts."""

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

import slimlib as slim
from slimlib.rl import SlimEvalCallback, SlimPPO
from tests.slimlib.rl.models import KINDS, WIDTHS, model

EVENTS = ("_on_training_start", "_on_rollout_start", "_on_step", "_on_rollout_end", "_on_training_end")


class Follows(BaseCallback):
    """Notes the width that each of its events sees, and leaves another behind."""

    def __init__(self):
        super().__init__()
        self.seen, self.leaves = {event: set() for event in EVENTS}, None

    def note(self, event):
        self.seen[event].add(slim.current_width(self.model.policy))
        if self.leaves is not None:
            slim.set_width(self.model.policy, self.leaves)
        return True

    def _on_step(self):
        return self.note("_on_step")


for event in EVENTS:
    setattr(Follows, event, lambda self, event=event: self.note(event))


@pytest.mark.parametrize("behaviour", ["smallest", 0.5, "sampled"])
@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "SAC"])
def test_every_event_sees_the_full_width(name, behaviour):
    follow = Follows()
    slimmable = model(name, behaviour=behaviour)
    slim.set_width(slimmable.policy, 0.5)
    slimmable.learn(40, callback=follow)
    assert follow.seen == {event: {1.0} for event in EVENTS}
    assert slim.current_width(slimmable.policy) == 0.5


def test_what_a_callback_sets_acts_no_further():
    follow = Follows()
    follow.leaves = 0.5
    slimmable = model("PPO", behaviour="smallest")
    acting = []
    slimmable.policy.mlp_extractor.policy_net[0].register_forward_hook(
        lambda layer, _, out: acting.append(out.shape[-1]) if len(out) == 1 else None
    )
    slimmable.learn(32, callback=follow)
    assert set(acting) == {4}


@pytest.mark.parametrize("given", [None, lambda *_: True, [Follows(), Follows()], Follows()], ids=["", "f", "[]", "C"])
def test_callbacks_of_every_form_are_taken(given):
    model("A2C").learn(16, callback=given, progress_bar=False)
    for each in given if isinstance(given, list) else []:
        assert each.n_calls == 16


class Width(gymnasium.Env):
    """Pays what the action says; with the policies below, 1 at width 1.0 and 0 at all others."""

    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (4,)), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(4, np.float32), {}

    def step(self, action):
        return np.ones(4, np.float32), float(action), True, False, {"is_success": bool(action)}


def of_width(**changes):
    """A model whose full width alone takes action 1, and which learns nothing."""
    settings = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "learning_rate": 0.0, "policy_kwargs": {"net_arch": [16]}}
    made = SlimPPO("MlpPolicy", Width(), widths=WIDTHS, rule="every", seed=0, **(settings | changes))
    net, head = made.policy.mlp_extractor.policy_net[0], made.policy.action_net
    for parameter in (net.weight, net.bias, head.weight, head.bias):
        parameter.data.zero_()
    net.bias.data[12] = 5.0
    head.weight.data[1, 12] = 100.0
    head.bias.data[0] = 1.0
    made.policy.slim.refresh()
    return made


def test_evaluation_in_a_rollout_is_that_of_the_full_width(tmp_path):
    evaluation = EvalCallback(Monitor(Width()), eval_freq=4, n_eval_episodes=2, log_path=tmp_path, verbose=0)
    of_width(behaviour="smallest").learn(24, callback=evaluation)
    assert (np.load(tmp_path / "evaluations.npz")["results"] == 1).all()


def test_evaluation_follows_the_width_that_is_asked_for():
    found = []

    class AtHalf(BaseCallback):
        def _on_step(self):
            with slim.at_width(self.model.policy, 0.5):
                found.append(evaluate_policy(self.model, Monitor(Width()), 1)[0])
            return True

    of_width(behaviour="full").learn(8, callback=AtHalf())
    assert found == [0.0] * 8


def evaluated(tmp_path, behaviour="smallest", **arguments):
    settings = {"eval_freq": 4, "n_eval_episodes": 3, "log_path": tmp_path, "best_model_save_path": tmp_path}
    callback = SlimEvalCallback(Monitor(Width()), [0.25, 0.5, 1.0], verbose=0, **(settings | arguments))
    trained = of_width(behaviour=behaviour)
    logged = []
    trained.set_logger(Logs(logged))
    trained.learn(16, callback=callback)
    return callback, logged, trained


class Logs:
    """A logger that keeps what is dumped."""

    def __init__(self, kept):
        self.kept, self.now = kept, {}

    def record(self, key, value, exclude=None):
        self.now[key] = value

    def dump(self, step=0):
        self.kept.append(self.now)
        self.now = {}


def test_each_width_is_scored_and_logged(tmp_path):
    callback, logged, _ = evaluated(tmp_path)
    assert callback.last_mean_rewards == {0.25: 0.0, 0.5: 0.0, 1.0: 1.0}
    written = np.load(tmp_path / "evaluations.npz")
    assert written["results"].shape == written["ep_lengths"].shape == (4, 3, 3)
    assert (written["results"].mean((0, 2)) == [0, 0, 1]).all()
    assert written["widths"].tolist() == [0.25, 0.5, 1.0]
    assert written["timesteps"].tolist() == [4, 8, 12, 16]
    assert written["successes"].mean() == pytest.approx(1 / 3)
    first = next(each for each in logged if "eval/mean_reward" in each)
    assert [first[f"eval/mean_reward_at_{width}"] for width in ("0.25", "0.5", "1")] == [0, 0, 1]
    assert first["eval/mean_ep_length_at_0.25"] == 1
    assert first["eval/success_rate"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("best", "score"), [("mean", 1 / 3), ("worst", 0.0), (1.0, 1.0), (0.5, 0.0)])
def test_the_rule_decides_the_score(tmp_path, best, score):
    callback, logged, _ = evaluated(tmp_path, best=best)
    assert callback.best_mean_reward == callback.last_mean_reward == pytest.approx(score)
    assert next(e for e in logged if "eval/mean_reward" in e)["eval/mean_reward"] == pytest.approx(score)


def test_the_best_model_is_kept_and_loads(tmp_path):
    *_, trained = evaluated(tmp_path)
    loaded = SlimPPO.load(tmp_path / "best_model")
    for width in WIDTHS.widths:
        for each in (loaded, trained):
            slim.set_width(each.policy, width)
        seen = np.ones((2, 4), np.float32)
        assert (loaded.predict(seen, deterministic=True)[0] == trained.predict(seen, deterministic=True)[0]).all()


def test_a_threshold_stops_by_the_score(tmp_path):
    for best, steps in (("mean", 16), (1.0, 4)):
        stop = StopTrainingOnRewardThreshold(0.9)
        *_, trained = evaluated(tmp_path, best=best, callback_on_new_best=stop)
        assert trained.num_timesteps == steps


def test_statistics_of_the_training_normalise_the_evaluation():
    training = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0))
    evaluation = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=1), training=False, norm_reward=False)
    kind, _, settings = KINDS["PPO, continuous"]
    slimmable = kind("MlpPolicy", training, widths=WIDTHS, rule="every", **settings)
    slimmable.learn(32, callback=SlimEvalCallback(evaluation, [0.5, 1.0], eval_freq=32, n_eval_episodes=1, verbose=0))
    assert evaluation.obs_rms.count == training.obs_rms.count > 1


@pytest.mark.parametrize(
    ("widths", "arguments", "says"),
    [
        ([], {}, "name at least one"),
        ([0.5, 0.5], {}, "each only once"),
        (0.5, {}, "widths=0.5: name at least one, each only once, in a list"),
        ([0.5, 1.0], {"best": "median"}, "best='median' must be 'mean', 'worst' or one of the widths: 0.5, 1"),
        ([0.5, 1.0], {"best": 0.25}, "best=0.25 must be"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(widths, arguments, says):
    with pytest.raises(ValueError, match=says):
        SlimEvalCallback(Monitor(Width()), widths, **arguments)


def test_widths_that_the_policy_does_not_have_are_refused_before_training():
    with pytest.raises(ValueError, match=r"0\.3"):
        of_width().learn(8, callback=SlimEvalCallback(Monitor(Width()), [0.3, 1.0]))
    with pytest.raises(ValueError, match="the policy of this PPO is not slimmable; use EvalCallback"):
        PPO("MlpPolicy", Width()).learn(8, callback=SlimEvalCallback(Monitor(Width()), [0.5, 1.0]))
