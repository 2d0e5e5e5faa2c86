"""What may be changed when a model is loaded, and spaces that no policy takes."""

import copy

import gymnasium
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.utils import LinearSchedule

import slimlib as slim
from slimlib.rl import SlimA2C, SlimDQN, SlimPPO
from slimlib.rl.loading import UnsafeModelError
from tests.slimlib.rl.models import KINDS, WIDTHS, Seen, model, plain_twin, same_parameters

CHANGED = {
    "PPO": {"learning_rate": 1e-5, "clip_range": 0.1, "clip_range_vf": 0.3, "n_epochs": 1, "target_kl": 0.5},
    "A2C": {"learning_rate": LinearSchedule(1e-3, 0.0, 1.0), "ent_coef": 0.1, "gae_lambda": 0.9},
    "DQN": {"learning_rate": 1e-5, "exploration_final_eps": 0.5, "target_update_interval": 7, "tau": 0.5},
    "SAC": {"learning_rate": 1e-5, "gradient_steps": 2, "tau": 0.5, "verbose": 0},
}


@pytest.mark.parametrize("name", CHANGED)
def test_arguments_take_the_place_of_those_in_the_file(name, tmp_path):
    saved = model(name).learn(32)
    saved.save(tmp_path / "model")
    loaded = type(saved).load(tmp_path / "model", env=copy.deepcopy(saved.env), **CHANGED[name])
    for key, value in CHANGED[name].items():
        if key not in ("clip_range", "clip_range_vf"):
            assert getattr(loaded, key) == value
    if name == "PPO":
        assert (loaded.clip_range(1.0), loaded.clip_range_vf(1.0)) == (0.1, 0.3)
    assert same_parameters(saved, loaded)
    loaded.learn(32)
    rate = loaded.policy.actor.optimizer if name == "SAC" else loaded.policy.optimizer
    wanted = loaded.lr_schedule(loaded._current_progress_remaining)
    assert rate.param_groups[0]["lr"] == pytest.approx(wanted)


@pytest.mark.parametrize("name", CHANGED)
def test_arguments_of_slimming_may_be_changed(name, tmp_path):
    saved = model(name)
    saved.save(tmp_path / "model")
    changes = {"widths": slim.WidthRange(0.5, 1.0), "rule": "sandwich", "samples": 3, "distill": False}
    loaded = type(saved).load(tmp_path / "model", behaviour=0.5, **changes)
    assert (loaded.widths, loaded.samples, loaded.distill, loaded.behaviour) == (changes["widths"], 3, False, 0.5)
    assert isinstance(loaded.rule, slim.Sandwich)
    with pytest.raises(ValueError, match=r"0\.5 to 1"):
        slim.set_width(loaded.policy, 0.25)


def test_layers_slim_as_they_do_in_the_file_whatever_the_widths(tmp_path):
    saved = model("PPO", policy_kwargs={"net_arch": [64, 8]})
    saved.save(tmp_path / "model")
    loaded = SlimPPO.load(tmp_path / "model", widths=slim.WidthRange(0.0625, 1.0), rule="sandwich")
    assert loaded.policy.slim.layout == saved.policy.slim.layout


@pytest.mark.parametrize("trusted", [False, True])
def test_widths_of_another_kind_have_the_default_rule_of_that_kind(trusted, tmp_path):
    between, fixed = slim.WidthRange(0.5, 1.0), slim.Switches(0.5, 1.0)
    for saved, rule, widths, expected in (
        (slim.WidthRange(0.25, 1.0), None, fixed, "every"),
        (WIDTHS, None, between, "sandwich"),
        (slim.WidthRange(0.25, 1.0), "largest-random", fixed, "largest-random"),
    ):
        model("PPO", widths=saved, rule=rule, samples=2).save(tmp_path / "model")
        assert SlimPPO.load(tmp_path / "model", widths=widths, trusted=trusted).rule_name == expected
        assert SlimPPO.load(tmp_path / "model", trusted=trusted).widths == saved
    with pytest.raises(ValueError, match="EveryWidth trains a list of switches"):
        SlimPPO.load(tmp_path / "model", widths=between, rule="every", trusted=trusted)


def test_impossible_arguments_are_refused_as_by_the_constructor(tmp_path):
    model("PPO").save(tmp_path / "model")
    for changes, says in (
        ({"behaviour": "narrow"}, "behaviour 'narrow' must be"),
        ({"widths": "0.5"}, "widths='0.5' must be Switches"),
        ({"rule": "sandwitch"}, "unknown rule 'sandwitch'"),
        ({"rule": "sandwich", "samples": 9}, "cannot draw 9 different widths"),
        ({"widths": slim.Switches(0.99, 1.0)}, "nothing slims .* at the smallest width 0.99 every layer has all its"),
        ({"convert_options": {"divisr": 8}}, "unknown option of slimlib.convert: 'divisr'"),
    ):
        with pytest.raises(ValueError, match=says):
            SlimPPO.load(tmp_path / "model", **changes)


@pytest.mark.parametrize(
    ("argument", "says"),
    [("learing_rate", "did you mean learning_rate"), ("xyzzy", "SlimPPO takes .*batch_size")],
)
def test_arguments_that_do_not_exist_are_refused(argument, says, tmp_path):
    for saved, trusted in ((model("PPO"), False), (plain_twin("PPO"), False), (model("PPO"), True)):
        saved.save(tmp_path / "model")
        with pytest.raises(
            ValueError, match=rf"SlimPPO\.load got {argument}=1, which is not one of its arguments; {says}"
        ):
            SlimPPO.load(tmp_path / "model", trusted=trusted, **{argument: 1})


def test_trust_is_in_the_pickles_alone(tmp_path):
    plain_twin("PPO").save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"was saved by PPO, and cannot be loaded by SlimA2C; use SlimPPO\.load"):
        SlimA2C.load(tmp_path / "model", trusted=True)
    loaded = SlimPPO.load(tmp_path / "model", trusted=True, widths=slim.Switches(0.5, 1.0))
    assert isinstance(loaded.rule, slim.EveryWidth)


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "SAC"])
def test_schedule_that_is_a_function_is_replaced_by_an_argument(name, tmp_path):
    saved = model(name, learning_rate=lambda left: 1e-3 * left)
    saved.save(tmp_path / "model")
    with pytest.raises(UnsafeModelError, match=r"'learning_rate' holds code: .* is given anew as an argument of load"):
        type(saved).load(tmp_path / "model")
    loaded = type(saved).load(tmp_path / "model", learning_rate=lambda left: 1e-2 * left)
    assert loaded.lr_schedule(0.5) == pytest.approx(5e-3)
    assert same_parameters(saved, loaded)


def test_schedule_of_the_clipping_is_replaced_by_an_argument(tmp_path):
    saved = model("PPO", clip_range=lambda left: 0.2 * left, clip_range_vf=lambda left: left)
    saved.save(tmp_path / "model")
    with pytest.raises(UnsafeModelError, match="'clip_range' holds code"):
        SlimPPO.load(tmp_path / "model")
    loaded = SlimPPO.load(tmp_path / "model", clip_range=0.1, clip_range_vf=0.3)
    assert (loaded.clip_range(0.5), loaded.clip_range_vf(0.5)) == (0.1, 0.3)


def test_schedule_of_a_plain_model_is_replaced_too(tmp_path):
    plain_twin("PPO", learning_rate=lambda left: 1e-3 * left).save(tmp_path / "plain")
    loaded = SlimPPO.load(tmp_path / "plain", learning_rate=1e-4, widths=slim.Switches(0.5, 1.0), rule="every")
    assert loaded.lr_schedule(1.0) == 1e-4


def test_other_policy_arguments_are_refused(tmp_path):
    model("PPO").save(tmp_path / "model")
    with pytest.raises(ValueError, match="policy kwargs do not equal the stored"):
        SlimPPO.load(tmp_path / "model", policy_kwargs={"net_arch": [8]})


ROWS = spaces.MultiDiscrete([[2, 3], [2, 2]])
VECTOR = spaces.Box(-1, 1, (4,))


@pytest.mark.parametrize("kind", [SlimPPO, SlimA2C])
@pytest.mark.parametrize(
    ("seen", "acts", "says"),
    [
        (VECTOR, ROWS, r"actions are MultiDiscrete of shape \(2, 2\); .* MultiDiscrete of shape \(4,\)"),
        (ROWS, spaces.Discrete(2), r"observations are MultiDiscrete of shape \(2, 2\)"),
        (VECTOR, spaces.MultiBinary([2, 3]), r"actions are MultiBinary of shape \(2, 3\); .* shape \(6,\)"),
    ],
)
def test_choices_that_are_not_in_a_row_are_refused(kind, seen, acts, says):
    with pytest.raises(ValueError, match=says):
        kind("MlpPolicy", Seen(seen, acts))


def test_choices_in_a_dictionary_are_looked_at():
    both = spaces.Dict({"a": VECTOR, "b": ROWS})
    for kind in (SlimPPO, SlimDQN):
        with pytest.raises(ValueError, match="observations are MultiDiscrete"):
            kind("MultiInputPolicy", Seen(both, spaces.Discrete(2)))


@pytest.mark.parametrize("seen", [spaces.MultiBinary([2, 3]), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)])
def test_what_stable_baselines3_takes_is_taken(seen):
    for acts in (spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)):
        PPO("MlpPolicy", Seen(seen, acts), n_steps=8, batch_size=8)
        SlimPPO("MlpPolicy", Seen(seen, acts), n_steps=8, batch_size=8).learn(8)


@pytest.mark.parametrize("name", ["SlimRecurrentPPO", "SlimMaskablePPO", "SlimQRDQN", "SlimTQC"])
def test_algorithms_of_sb3_contrib_are_refused_by_name(name):
    with pytest.raises(ImportError, match=f"{name[4:]} of sb3_contrib has no slimmable form; it would need"):
        exec(f"from slimlib.rl import {name}")


def test_policies_of_sb3_contrib_are_refused_by_name():
    contrib = pytest.importorskip("sb3_contrib")
    from slimlib.rl.policies import make_slimmable

    for kind, policy, environment in (
        (contrib.RecurrentPPO, "MlpLstmPolicy", "CartPole-v1"),
        (contrib.MaskablePPO, "MlpPolicy", "CartPole-v1"),
        (contrib.QRDQN, "MlpPolicy", "CartPole-v1"),
        (contrib.TQC, "MlpPolicy", "Pendulum-v1"),
    ):
        trained = kind(policy, gymnasium.make(environment), device="cpu")
        before = {name: type(module) for name, module in trained.policy.named_modules()}
        with pytest.raises(ValueError, match=f"{kind.__name__} of sb3_contrib has no slimmable form"):
            make_slimmable(trained.policy, widths=slim.Switches(0.5, 1.0), options={})
        assert before == {name: type(module) for name, module in trained.policy.named_modules()}


def test_models_of_sb3_contrib_are_refused_by_name(tmp_path):
    contrib = pytest.importorskip("sb3_contrib")
    for kind, policy, environment in (
        (contrib.RecurrentPPO, "MlpLstmPolicy", "CartPole-v1"),
        (contrib.MaskablePPO, "MlpPolicy", "CartPole-v1"),
        (contrib.QRDQN, "MlpPolicy", "CartPole-v1"),
        (contrib.TQC, "MlpPolicy", "Pendulum-v1"),
    ):
        kind(policy, gymnasium.make(environment), device="cpu").save(tmp_path / "model")
        for own in (SlimPPO, SlimDQN):
            with pytest.raises(ValueError, match=f"was saved by {kind.__name__}; .*it would need"):
                own.load(tmp_path / "model")


def test_every_algorithm_is_loaded_with_defaults_of_any_kind(tmp_path):
    for name in KINDS:
        model(name).save(tmp_path / "model")
        assert torch.is_tensor(next(KINDS[name][0].load(tmp_path / "model").policy.parameters()))
