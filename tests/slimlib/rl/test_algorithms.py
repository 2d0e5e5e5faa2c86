"""The updates: plain ones at a single width, sums of plain gradients at several, and who acts."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch.nn import functional as F

import slimlib as slim
from slimlib.rl import SlimDQN, SlimPPO
from slimlib.rl.loading import UnsafeModelError
from slimlib.rl.on_policy import evaluate
from tests.slimlib.rl.models import KINDS, WIDTHS, model, observations, plain_twin, same_parameters

ALONE = {"widths": slim.Switches(1.0), "rule": "every"}
STEPS = {"SAC": 96, "SAC, state-dependent noise": 64}  # 256 of the others: 16 rollouts
SETTINGS = {
    "PPO": {"clip_range_vf": 0.2, "target_kl": 0.01, "ent_coef": 0.01},
    "PPO, continuous": {"learning_rate": 1e-3},
    "A2C": {"normalize_advantage": True, "ent_coef": 0.01},
    "DQN": {"n_steps": 3, "gradient_steps": 2},
    "SAC": {"target_update_interval": 2, "ent_coef": "auto_0.1", "gradient_steps": 2, "train_freq": 2},
}


@pytest.mark.parametrize("name", KINDS)
def test_single_full_width_trains_as_the_ordinary_algorithm(name):
    steps, settings = STEPS.get(name, 256), SETTINGS.get(name, {})
    slimmable = model(name, **ALONE, **settings).learn(steps)
    plain = plain_twin(name, **settings).learn(steps)  # made last: making one seeds the global generators
    assert same_parameters(slimmable, plain)
    assert not same_parameters(slimmable, model(name, **ALONE))


@pytest.mark.parametrize("name", KINDS)
def test_rule_largest_trains_the_ordinary_policy_and_cuts_it(name):
    slimmable = model(name, rule="largest").learn(64)
    plain = plain_twin(name).learn(64)
    assert same_parameters(slimmable, plain)
    slim.set_width(slimmable.policy, 0.25)
    slimmable.predict(observations(slimmable))


def test_log_has_what_the_ordinary_algorithm_writes():
    for name in KINDS:
        written = []
        for made in (model(name, distill=False), plain_twin(name)):
            made.learn(32, log_interval=None)
            written.append(set(made.logger.name_to_value))
        assert {key for key in written[1] if key.startswith("train/")} <= written[0], name
        assert written[0] - written[1] == {"train/loss_of_narrow_widths"}, name


STOPS = {"target_kl": 1e-3, "learning_rate": 0.02, "n_epochs": 9, "verbose": 1}


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, SETTINGS[name]) for name in ("PPO", "A2C", "DQN", "SAC")), ("PPO", STOPS)], ids=str
)
def test_log_of_the_full_width_alone_is_that_of_the_ordinary_algorithm(name, settings, capsys):
    logs, printed = [], []
    for made, own in ((model, {"widths": slim.WidthRange(1.0, 1.0), "rule": "sandwich"}), (plain_twin, {})):
        trained = made(name, **settings, **own).learn(64, log_interval=None)
        logs.append({key: value for key, value in trained.logger.name_to_value.items() if key.startswith("train/")})
        printed.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("Early")])
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    assert printed[0] == printed[1]
    assert bool(printed[1]) == (settings is STOPS)


def collected(name, **changes):
    """A model with a rollout, and the one batch of it."""
    slimmable = model(name, **changes)
    slimmable._setup_learn(1000)
    slimmable.collect_rollouts(
        slimmable.env, slimmable._init_callback(None), slimmable.rollout_buffer, n_rollout_steps=16
    )
    np.random.seed(0)
    return slimmable, next(iter(slimmable.rollout_buffer.get(16)))


def plain_loss(slimmable, data, clip):
    """The algorithm's loss at the width that is set, written down once more."""
    out = evaluate(slimmable.policy, data.observations, data.actions.long().flatten())
    advantages = data.advantages
    if slimmable.normalize_advantage:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    if clip is None:
        policy = -(advantages * out.log_prob).mean()
    else:
        ratio = torch.exp(out.log_prob - data.old_log_prob)
        policy = -torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)).mean()
    value = F.mse_loss(data.returns, out.values)
    return policy - slimmable.ent_coef * out.entropy.mean() + slimmable.vf_coef * value


@pytest.mark.parametrize("distill_values", [None, 0.0, 0.7])
@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_gradient_is_the_sum_over_the_widths(name, distill_values):
    distill = distill_values is not None
    settings = {"distill": distill, "distill_values": distill_values or 0.0, "ent_coef": 0.02, "max_grad_norm": 1e9}
    settings |= {"stability": "none", "lesson": {"weight": 1.0} if distill else {}}
    settings |= {"n_epochs": 1, "batch_size": 16} if name == "PPO" else {}
    slimmable, data = collected(name, **settings)
    clip = 0.2 if name == "PPO" else None
    expected = {key: torch.zeros_like(p) for key, p in slimmable.policy.named_parameters()}
    with slim.at_width(slimmable.policy, 1.0), torch.no_grad():
        teacher = evaluate(slimmable.policy, data.observations, data.actions.long().flatten())
    for width in (1.0, 0.5, 0.25):
        with slim.at_width(slimmable.policy, width):
            if width == 1.0 or not distill:
                loss = plain_loss(slimmable, data, clip)
            else:
                out = evaluate(slimmable.policy, data.observations, data.actions.long().flatten())
                sure, unsure = teacher.action[0].softmax(1), out.action[0].log_softmax(1)
                loss = F.kl_div(unsure, sure, reduction="batchmean")
                loss = loss + distill_values * F.mse_loss(out.values, teacher.values)
            slimmable.policy.zero_grad()
            loss.backward()
            for key, parameter in slimmable.policy.named_parameters():
                expected[key] += 0 if parameter.grad is None else parameter.grad
    slimmable.policy.optimizer.step = lambda: None
    np.random.seed(0)
    slimmable.train()
    for key, parameter in slimmable.policy.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-4, atol=1e-6)


def test_narrow_means_learn_towards_the_largest_and_leave_the_deviation_alone():
    slimmable = model("PPO, continuous", max_grad_norm=1e9)
    slimmable.learn(32)
    seen, actions = torch.from_numpy(observations(slimmable)), torch.zeros(5, 1)
    with slim.at_width(slimmable.policy, 1.0):
        teacher = evaluate(slimmable.policy, seen, actions)
    with slim.at_width(slimmable.policy, 0.25):
        student = evaluate(slimmable.policy, seen, actions)
    slimmable.policy.zero_grad()
    detached = teacher._replace(action=tuple(p.detach() for p in teacher.action))
    loss = slimmable.distillation(student, detached)
    loss.backward()
    assert slimmable.policy.log_std.grad is None
    deviation = slimmable.policy.log_std.exp().detach()
    expected = ((student.action[0] - teacher.action[0]) / deviation).square().sum(1).mean() / 2
    torch.testing.assert_close(loss, expected)


def test_q_values_learn_from_the_largest_or_from_the_target():
    for distill in (True, False):
        lesson = {"weight": 1.0} if distill else {}
        slimmable = model("DQN", distill=distill, lesson=lesson, max_grad_norm=1e9)
        slimmable.learn(60)
        data = slimmable.replay_buffer.sample(16)
        with torch.no_grad():
            following = slimmable.q_net_target(data.next_observations).max(1).values.unsqueeze(1)
            aim = data.rewards + (1 - data.dones) * slimmable.gamma * following
        losses = []
        for width in (1.0, 0.5, 0.25):
            with slim.at_width(slimmable.policy, width):
                values = slimmable.q_net(data.observations)
            teacher = values.detach() if width == 1.0 else teacher  # noqa: F821
            chosen = values.gather(1, data.actions.long())
            distilled = distill and width != 1.0
            losses.append(F.smooth_l1_loss(values, teacher) if distilled else F.smooth_l1_loss(chosen, aim))
        assert slimmable._step(data) == pytest.approx([loss.item() for loss in losses], rel=1e-5)


@pytest.mark.parametrize("distill_values", [0.0, 0.5])
def test_narrow_critics_are_trained_where_somebody_asks_them(distill_values):
    slimmable = model("SAC", distill_values=distill_values)
    slimmable.learn(25)
    narrow = []
    for module in slimmable.critic.modules():
        if isinstance(module, torch.nn.Linear):
            full = module._parameters["weight"].shape
            module.register_full_backward_hook(lambda m, *_, full=full: narrow.append(m.weight.shape != full))
    slimmable._train_critics(data := slimmable.replay_buffer.sample(8), torch.zeros(8, 1), NoLog())
    assert any(narrow) == bool(distill_values)
    assert len(data.observations) == 8


class NoLog:
    """Takes what the log would."""

    def add(self, **_):
        pass


@pytest.mark.parametrize(("behaviour", "width"), [("full", 1.0), ("smallest", 0.25), (0.5, 0.5)])
def test_old_probabilities_and_values_are_those_of_the_width_that_acts(behaviour, width):
    slimmable, data = collected("PPO", behaviour=behaviour)
    assert slim.current_width(slimmable.policy) == 1.0
    with slim.at_width(slimmable.policy, width), torch.no_grad():
        out = evaluate(slimmable.policy, data.observations, data.actions.long().flatten())
    torch.testing.assert_close(out.log_prob, data.old_log_prob)
    torch.testing.assert_close(out.values, data.old_values)


@pytest.mark.parametrize("widths", [WIDTHS, slim.WidthRange(0.25, 1.0)], ids=str)
def test_sampled_width_changes_from_rollout_to_rollout(widths):
    rule = {"rule": "every"} if widths is WIDTHS else {"rule": "sandwich"}
    seen = []
    for _ in range(2):
        slimmable, acting = model("A2C", n_steps=4, widths=widths, behaviour="sampled", **rule), []
        slimmable.policy.mlp_extractor.policy_net[0].register_forward_hook(
            lambda layer, x, _, acting=acting, of=slimmable.policy: (
                acting.append(slim.current_width(of)) if len(x[0]) == 1 else None
            )
        )
        slimmable.learn(4 * 30)
        seen.append(acting)
    assert seen[0] == seen[1]
    rollouts = [set(seen[0][i : i + 4]) for i in range(0, 120, 4)]
    assert all(len(rollout) == 1 for rollout in rollouts)
    assert len(set.union(*rollouts)) == (3 if widths is WIDTHS else 30)
    assert all(0.25 <= width <= 1.0 for width in seen[0])


def test_default_rule_fits_the_widths():
    assert isinstance(model("PPO", rule=None).rule, slim.EveryWidth)
    assert isinstance(model("PPO", rule=None, widths=slim.WidthRange(0.25, 1.0)).rule, slim.Sandwich)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rule": "incremental"}, "rule 'incremental' trains in stages, each with an optimizer of its own"),
        ({"rule": "random", "samples": 2, "distill": False, "stability": "conflict"}, "rule 'random' does not train"),
    ],
)
def test_rules_that_cannot_train_a_policy_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        model("PPO", **changes)


def test_smaller_images_need_images():
    vectors = model("PPO", rule="resolutions", widths=slim.WidthRange(0.25, 1.0), rule_options={"sizes": (8,)})
    with pytest.raises(ValueError, match=r"smaller images \[N, C, H, W\] by this rule, and it got \[8, 4\]"):
        vectors.learn(16)


@pytest.mark.parametrize("name", KINDS)
def test_loaded_model_goes_on_as_the_saved_one(name, tmp_path):
    saved = model(name, widths=slim.WidthRange(0.25, 1.0), rule="sandwich", samples=3, behaviour="sampled")
    saved.learn(32)
    saved.save(tmp_path / "model")
    loaded = type(saved).load(tmp_path / "model", device="cpu")
    assert same_parameters(saved, loaded)
    assert str(loaded.policy.slim) == str(saved.policy.slim)
    assert [loaded.rule.draw() for _ in range(5)] == [saved.rule.draw() for _ in range(5)]
    assert (loaded.behaviour, loaded.samples, loaded.widths) == (saved.behaviour, saved.samples, saved.widths)
    seen = observations(saved)
    for width in (0.25, 0.4, 1.0):
        for each in (saved, loaded):
            slim.set_width(each.policy, width)
        np.testing.assert_array_equal(*[m.predict(seen, deterministic=True)[0] for m in (saved, loaded)])
    loaded.set_env(saved.env)
    loaded.learn(32)


@pytest.mark.parametrize("name", KINDS)
def test_plain_model_becomes_slimmable(name, tmp_path):
    plain = plain_twin(name)
    plain.learn(32)
    plain.save(tmp_path / "plain")
    widths = slim.Switches(0.5, 1.0)
    loaded = KINDS[name][0].load(tmp_path / "plain", device="cpu", widths=widths, rule="every", distill=False)
    assert same_parameters(plain, loaded)
    assert (loaded.widths, loaded.distill) == (widths, False)
    slim.set_width(loaded.policy, 0.5)
    loaded.set_env(plain.env)
    loaded.learn(32)
    by_default = KINDS[name][0].load(tmp_path / "plain", device="cpu")
    assert by_default.widths == slim.WidthRange(0.25, 1.0)


def test_models_load_without_slimlib(tmp_path):
    """All in one process, which takes seconds to import stable-baselines3."""
    models = {name: model(name) for name in ("PPO", "DQN", "SAC")}
    for name, slimmable in models.items():
        slimmable.learn(32)
        slimmable.save(tmp_path / f"{name} slim")
        slimmable.extract(0.25).save(tmp_path / f"{name} narrow")
        np.save(tmp_path / f"{name} seen.npy", observations(slimmable))
    code = (
        "import sys; sys.modules['slimlib'] = None\n"
        "import numpy as np, stable_baselines3 as sb3\n"
        f"for name in {[*models]}:\n"
        "    for size in ('slim', 'narrow'):\n"
        "        model = getattr(sb3, name).load(f'{name} {size}', device='cpu')\n"
        "        actions = model.predict(np.load(f'{name} seen.npy'), deterministic=True)[0]\n"
        "        np.save(f'{name} {size}.npy', actions)\n"
    )
    environment = os.environ | {"PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path, env=environment)
    for name, slimmable in models.items():
        for size, width in (("slim", 1.0), ("narrow", 0.25)):
            slim.set_width(slimmable.policy, width)
            expected = slimmable.predict(observations(slimmable), deterministic=True)[0]
            np.testing.assert_allclose(np.load(tmp_path / f"{name} {size}.npy"), expected, rtol=1e-5, atol=1e-6)


def test_schedule_that_is_code_is_loaded_only_by_an_explicit_word(tmp_path):
    slimmable = model("PPO", learning_rate=lambda left: 1e-3 * left)
    slimmable.save(tmp_path / "model")
    with pytest.raises(UnsafeModelError, match="learning_rate"):
        SlimPPO.load(tmp_path / "model", device="cpu")
    replaced = SlimPPO.load(tmp_path / "model", device="cpu", custom_objects={"learning_rate": 1e-3})
    assert same_parameters(replaced, slimmable)
    assert same_parameters(SlimPPO.load(tmp_path / "model", device="cpu", trusted=True), slimmable)


def test_layout_comes_from_the_file_unless_it_is_asked_for_anew(tmp_path):
    saved = model("PPO", convert_options={"divisor": 8})
    saved.save(tmp_path / "model")
    assert {group.divisor for group in SlimPPO.load(tmp_path / "model").policy.slim.layout.groups} == {8}
    anew = SlimPPO.load(tmp_path / "model", convert_options={"divisor": 2})
    assert {group.divisor for group in anew.policy.slim.layout.groups} == {2}


def test_damaged_layout_is_refused(tmp_path):
    saved = model("PPO")
    damaged = copy.deepcopy(saved.slim_layout)
    damaged["axes"] = {name.replace("policy_net", "another_net"): dims for name, dims in damaged["axes"].items()}
    for layout, says in ((damaged, "the layout belongs to another network"), ({}, "slim_layout is damaged")):
        saved.slim_layout = layout
        saved.save(tmp_path / "model")
        with pytest.raises(ValueError, match=says):
            SlimPPO.load(tmp_path / "model", device="cpu")


def test_model_of_another_algorithm_or_environment_is_refused(tmp_path):
    model("PPO").save(tmp_path / "model")
    with pytest.raises(ValueError, match="SlimDQN"):
        SlimDQN.load(tmp_path / "model", device="cpu")
    with pytest.raises(ValueError, match="trained in another environment"):
        SlimPPO.load(tmp_path / "model", env=make_vec_env("Pendulum-v1"), device="cpu")


def test_normalised_environments_are_collected_as_usual():
    trained = []
    for kind, own in ((SlimPPO, ALONE), (PPO, {})):
        copies = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0))
        trained.append(kind("MlpPolicy", copies, n_steps=16, batch_size=16, seed=0, device="cpu", **own).learn(128))
    assert same_parameters(*trained)
