"""Networks of a few units, or of none, slim as far as they can."""

import warnings

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import slimlib as slim
from slimlib.rl import SlimDQN, SlimPPO, SlimSAC
from tests.slimlib.rl.models import KINDS, WIDTHS, Seen, model, observations

IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)


def units(part):
    return [layer.weight.shape[0] for layer in part.modules() if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "SAC"])
@pytest.mark.parametrize("arch", [[2], [3], [2, 3]])
def test_few_units_slim_to_one(name, arch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slimmable = model(name, policy_kwargs={"net_arch": arch}).learn(40)
    slim.set_width(slimmable.policy, 0.25)
    part = slimmable.policy
    net = part.mlp_extractor.policy_net if name in ("PPO", "A2C") else getattr(part, "q_net", None) or part.actor
    assert units(net)[: len(arch)] == [1] * len(arch)
    narrow = slimmable.extract(0.25)
    seen = observations(slimmable)
    ours, theirs = (each.predict(seen, deterministic=True)[0] for each in (slimmable, narrow))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


FEW = {
    "a layer": ("PPO", {"net_arch": [16, 2]}, "policy_net.2, mlp_extractor.value_net.2 are active: at 0.25"),
    "the actor's layer": ("PPO", {"net_arch": {"pi": [3], "vf": [16]}}, "mlp_extractor.policy_net.0 are active"),
    "a layer of the Q-network": ("DQN", {"net_arch": [2, 16]}, "units of q_net.q_net.0 are active"),
    "a layer of the actor": ("SAC", {"net_arch": {"pi": [16, 3], "qf": [16]}}, "actor.latent_pi.2 are active"),
}  # fmt: skip


@pytest.mark.parametrize("case", FEW)
def test_a_layer_with_less_than_one_unit_stays_full_and_it_is_said_once(case, tmp_path):
    name, kwargs, says = FEW[case]
    with pytest.warns(UserWarning, match=says) as said:
        slimmable = model(name, policy_kwargs=kwargs)
    assert len(said) == 1
    assert "With 4 units or more in net_arch they slim" in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slimmable.learn(40)
        slimmable.save(tmp_path / "model")
        loaded = type(slimmable).load(tmp_path / "model")
        narrow = loaded.extract(0.25)
    for each in (slimmable, loaded):
        slim.set_width(each.policy, 0.25)
    kept = slimmable.policy.slim.layout.kept
    assert all(len(slimmable.policy.get_submodule(layer).weight) in (1, 2, 3) for layer in kept)
    seen = observations(slimmable)
    expected = slimmable.predict(seen, deterministic=True)[0]
    for each in (loaded, narrow):
        np.testing.assert_allclose(each.predict(seen, deterministic=True)[0], expected, rtol=1e-5, atol=1e-6)


NONE = {
    "no hidden layer of the actor": ("MlpPolicy", {"net_arch": {"pi": [], "vf": [16]}}),
    "no hidden layer of the critic": ("MlpPolicy", {"net_arch": {"pi": [16]}}),
    "images alone": ("CnnPolicy", {"net_arch": []}),
}


@pytest.mark.parametrize("case", NONE)
def test_what_has_no_hidden_layer_stays_full(case):
    policy, kwargs = NONE[case]
    environment = Seen(IMAGE, spaces.Discrete(3)) if policy == "CnnPolicy" else "CartPole-v1"
    slimmable = SlimPPO(policy, environment, widths=WIDTHS, n_steps=8, batch_size=8, policy_kwargs=kwargs, seed=0)
    slimmable.learn(8)
    full = torch.nn.utils.parameters_to_vector(slimmable.policy.parameters()).numel()
    narrow = slimmable.extract(0.25).policy
    assert torch.nn.utils.parameters_to_vector(narrow.parameters()).numel() < full


@pytest.mark.parametrize(("name", "critic"), [("PPO", "vf"), ("SAC", "qf")])
def test_an_actor_that_acts_alike_at_every_width_is_said_once(name, critic, tmp_path):
    with pytest.warns(UserWarning, match="the actor .* acts alike at every width") as said:
        slimmable = model(name, policy_kwargs={"net_arch": {"pi": [], critic: [16]}})
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slimmable.learn(40).save(tmp_path / "model")
        type(slimmable).load(tmp_path / "model")
        model(name, policy_kwargs={"net_arch": {"pi": [16], critic: []}})
    seen = observations(slimmable)
    wide = slimmable.predict(seen, deterministic=True)[0]
    slim.set_width(slimmable.policy, 0.25)
    np.testing.assert_array_equal(slimmable.predict(seen, deterministic=True)[0], wide)


@pytest.mark.parametrize("kind", [SlimDQN, SlimSAC])
def test_images_alone_slim_off_policy(kind):
    actions = spaces.Box(-1, 1, (2,)) if kind is SlimSAC else spaces.Discrete(3)
    slimmable = kind(
        "CnnPolicy",
        Seen(IMAGE, actions),
        widths=WIDTHS,
        buffer_size=50,
        learning_starts=4,
        batch_size=4,
        policy_kwargs={"net_arch": []},
        seed=0,
    )
    slimmable.learn(8)
    slimmable.extract(0.25)


@pytest.mark.parametrize("name", ["PPO", "DQN", "SAC"])
def test_an_activation_that_forbids_to_slim_is_named_without_that_remedy(name):
    with pytest.raises(ValueError, match="nothing slims .*rrelu") as error:
        model(name, policy_kwargs={"net_arch": [16, 16], "activation_fn": nn.RReLU})
    assert "net_arch" not in str(error.value)


def test_what_has_nothing_to_slim_is_refused_with_the_remedy():
    for name in KINDS:
        for arch in ([], [1]):
            with pytest.raises(ValueError, match=r"nothing slims .*'net_arch': \[64, 64\]"):
                model(name, policy_kwargs={"net_arch": arch})
