"""What is done to the gradients of the widths, so that the narrow ones leave the full one alone."""

import copy

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch.nn import functional as F

import slimlib as slim
from slimlib.rl import SlimPPO
from slimlib.rl.on_policy import evaluate
from tests.slimlib.rl.models import model, plain_twin, same_parameters

ONE_STEP = {"PPO": {"n_epochs": 1, "batch_size": 16}, "A2C": {}}


def with_rollout(name, **changes):
    """A model with a rollout, and the one batch of it."""
    lesson = {"weight": 1.0} if changes.get("distill", True) else {}
    slimmable = model(name, ent_coef=0.02, max_grad_norm=1e9, lesson=lesson, **ONE_STEP[name] | changes)
    slimmable._setup_learn(1000)
    callback = slimmable._init_callback(None)
    slimmable.collect_rollouts(slimmable.env, callback, slimmable.rollout_buffer, n_rollout_steps=16)
    slimmable.policy.action_net.weight.data.mul_(100)  # far from uniform, so that the widths differ
    slimmable.policy.slim.refresh()
    np.random.seed(0)
    return slimmable, next(iter(slimmable.rollout_buffer.get(16)))


def own_loss(slimmable, data, out, old):
    advantages = data.advantages
    if slimmable.normalize_advantage:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    if isinstance(slimmable, SlimPPO):
        ratio = torch.exp(out.log_prob - old)
        policy = -torch.min(advantages * ratio, advantages * ratio.clamp(0.8, 1.2)).mean()
    else:
        policy = -(advantages * out.log_prob).mean()
    return policy - slimmable.ent_coef * out.entropy.mean() + slimmable.vf_coef * F.mse_loss(data.returns, out.values)


def gradients_of_widths(slimmable, data, *, ratio=False):
    """The gradient of each width by itself, largest first, and that of the full policy's entropy."""
    policy, actions, found, teacher = slimmable.policy, data.actions.long().flatten(), [], None
    parameters = list(policy.parameters())
    for width in (1.0, 0.5, 0.25):
        with slim.at_width(policy, width):
            out = evaluate(policy, data.observations, actions)
            if width == 1.0 or not slimmable.distill:
                loss = own_loss(slimmable, data, out, out.log_prob.detach() if ratio else data.old_log_prob)
            else:
                loss = F.kl_div(out.action[0].log_softmax(1), teacher.softmax(1), reduction="batchmean")
            if width == 1.0:
                teacher = out.action[0].detach()
                entropy = torch.autograd.grad(out.entropy.mean(), parameters, retain_graph=True, allow_unused=True)
            found.append(torch.autograd.grad(loss, parameters, allow_unused=True))
    full = [[torch.zeros_like(p) if g is None else g for p, g in zip(parameters, each, strict=True)] for each in found]
    head = {id(p) for p in policy.action_net.parameters()}
    surer = [g if id(p) in head else torch.zeros_like(p) for p, g in zip(parameters, entropy, strict=True)]
    return [torch.cat([g.flatten() for g in each]) for each in full], torch.cat([g.flatten() for g in surer])


def after_an_update(slimmable):
    slimmable.policy.optimizer.step = lambda: None
    np.random.seed(0)
    slimmable.train()
    return torch.cat([p.grad.flatten() for p in slimmable.policy.parameters()])


@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_narrow_widths_make_the_full_policy_no_surer(name):
    slimmable, data = with_rollout(name)
    (full, *narrow), entropy = gradients_of_widths(slimmable, data)
    together = sum(narrow)
    falls = together @ entropy
    assert falls > 0  # so there is something to take out
    expected = full + together - falls / (entropy @ entropy) * entropy
    found = after_an_update(slimmable)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert abs((found - full) @ entropy) < 1e-3 * falls


def test_what_makes_the_full_policy_less_sure_stays():
    for seed in range(20):
        slimmable, data = with_rollout("PPO", distill=False, seed=seed)
        gradients, entropy = gradients_of_widths(slimmable, data)
        if sum(gradients[1:]) @ entropy < 0:
            torch.testing.assert_close(after_an_update(slimmable), sum(gradients), rtol=1e-4, atol=1e-5)
            return
    raise AssertionError("in no rollout the narrow widths would make the policy less sure")


@pytest.mark.parametrize("limit", [1e-3, 0.05, 1e9])
def test_each_width_is_clipped_by_itself(limit):
    slimmable, data = with_rollout("A2C", stability="clip")
    slimmable.max_grad_norm = limit
    gradients, _ = gradients_of_widths(slimmable, data)
    expected = sum(g * torch.clamp(limit / (g.norm() + 1e-6), max=1) for g in gradients)
    torch.testing.assert_close(after_an_update(slimmable), expected, rtol=1e-4, atol=1e-7)


def test_what_points_against_the_full_width_is_taken_out():
    taken = []
    for seed in range(8):
        slimmable, data = with_rollout("PPO", stability="conflict", seed=seed)
        (full, *narrow), _ = gradients_of_widths(slimmable, data)
        together = sum(narrow)
        against = torch.clamp(together @ full, max=0)
        taken.append(against < 0)
        expected = full + together - against / (full @ full) * full
        torch.testing.assert_close(after_an_update(slimmable), expected, rtol=1e-4, atol=1e-6)
    assert any(taken)
    assert not all(taken)


class Stops(BaseCallback):
    def _on_step(self):
        return self.num_timesteps < 48


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "SAC"])
def test_narrow_widths_begin_later(name):
    late = model(name, stability="late", learning_starts=8) if name in ("DQN", "SAC") else model(name, stability="late")
    trained = late.learn(200, callback=Stops())
    plain = plain_twin(name, learning_starts=8) if name in ("DQN", "SAC") else plain_twin(name)
    plain.learn(200, callback=Stops())
    assert same_parameters(trained, plain)
    alone = trained.learn(48, callback=Stops(), reset_num_timesteps=True)
    assert alone.logger.name_to_value is not None


def test_narrow_widths_do_begin():
    trained, plain = model("PPO", stability="late").learn(64), plain_twin("PPO").learn(64)
    assert not same_parameters(trained, plain)


def test_every_width_is_compared_with_its_own_probabilities():
    slimmable, data = with_rollout("PPO", stability="ratio", distill=False)
    slimmable.rollout_buffer.log_probs[:] = -50  # what acted would be very unlikely: the ratio clips all
    np.random.seed(0)
    data = next(iter(slimmable.rollout_buffer.get(16)))
    gradients, _ = gradients_of_widths(slimmable, data, ratio=True)
    torch.testing.assert_close(after_an_update(slimmable), sum(gradients), rtol=1e-4, atol=1e-5)


def test_full_width_alone_is_trained_as_ever():
    for stability in ("none", "certainty", "clip", "conflict", "ratio"):
        alone = model("PPO", widths=slim.Switches(1.0), stability=stability).learn(64)
        plain = plain_twin("PPO").learn(64)
        assert same_parameters(alone, plain), stability


def test_of_continuous_actions_the_layer_of_the_means_alone_is_held_back():
    """They may not move away from the middle; the deviation is a parameter that narrow widths leave alone."""
    settings = {"n_epochs": 1, "batch_size": 16, "max_grad_norm": 1e9}
    found = []
    for stability in ("certainty", "none"):
        slimmable = model("PPO, continuous", stability=stability, **settings)
        slimmable.policy.optimizer.step = lambda: None
        slimmable.learn(16)
        found.append({name: p.grad.clone() for name, p in slimmable.policy.named_parameters()})
    held, free = found
    assert {name for name in held if not torch.equal(held[name], free[name])} == {
        "action_net.weight",
        "action_net.bias",
    }


FROZEN = [
    ("PPO", ["action_net"]),
    ("PPO", ["mlp_extractor.policy_net", "action_net"]),  # a narrow width learns nothing
    ("A2C", ["action_net"]),
    ("SAC", ["actor.mu"]),
    ("SAC", ["actor.log_std"]),
    ("SAC", ["actor"]),
]


@pytest.mark.parametrize(("name", "layers"), FROZEN, ids=str)
def test_frozen_layers_stay_as_they_are_and_the_others_learn(name, layers):
    for stability in ("certainty", "conflict"):
        slimmable = model(name, stability=stability)
        for layer in layers:
            slimmable.policy.get_submodule(layer).requires_grad_(False)
        before = copy.deepcopy(slimmable.policy.state_dict())
        slimmable.learn(24)
        learned = {key for key, value in slimmable.policy.state_dict().items() if not torch.equal(value, before[key])}
        assert learned
        assert not any(key.startswith(f"{layer}.") for key in learned for layer in layers)


def test_choice_is_saved_and_may_be_changed(tmp_path):
    model("PPO", stability="conflict").save(tmp_path / "model")
    assert SlimPPO.load(tmp_path / "model").stability == "conflict"
    assert SlimPPO.load(tmp_path / "model", stability="clip").stability == "clip"
    plain_twin("PPO").save(tmp_path / "plain")
    assert SlimPPO.load(tmp_path / "plain", widths=slim.Switches(0.5, 1.0)).stability == "certainty"


@pytest.mark.parametrize(
    ("name", "stability", "allowed"),
    [
        ("PPO", "certain", "certainty, none, clip, conflict, late, ratio for SlimPPO"),
        ("A2C", "ratio", "certainty, none, clip, conflict, late for SlimA2C"),
        ("DQN", "certainty", "none, clip, conflict, late for SlimDQN"),
        ("SAC", "clip", "certainty, none, conflict, late for SlimSAC"),
    ],
)
def test_what_an_algorithm_does_not_have_is_refused(name, stability, allowed):
    with pytest.raises(ValueError, match=f"stability '{stability}' must be one of {allowed}"):
        model(name, stability=stability)
