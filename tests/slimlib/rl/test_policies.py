"""A slimmable policy acts at a width as the ordinary policy that carries the slices does."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, TD3

import slimlib as slim
from slimlib.rl import SlimA2C, SlimDQN, SlimPPO, SlimSAC
from slimlib.rl.policies import make_slimmable
from tests.slimlib.rl.models import KINDS, WIDTHS, Convolutions, Seen, model, observations, plain_twin

IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
MANY = spaces.Dict({"image": IMAGE, "vector": spaces.Box(-1, 1, (5,)), "kind": spaces.Discrete(3)})
CASES = {
    "images, shared": (SlimPPO, "CnnPolicy", Seen(IMAGE, spaces.Discrete(3)), {}),
    "images, apart": (SlimA2C, "CnnPolicy", Seen(IMAGE, spaces.Discrete(3)), {"share_features_extractor": False}),
    "images, DQN": (SlimDQN, "CnnPolicy", Seen(IMAGE, spaces.Discrete(3)), {}),
    "images, SAC": (SlimSAC, "CnnPolicy", Seen(IMAGE, spaces.Box(-1, 1, (2,))), {"net_arch": [16, 16]}),
    "dictionaries": (SlimPPO, "MultiInputPolicy", Seen(MANY, spaces.MultiDiscrete([2, 3])), {}),
    "dictionaries, DQN": (SlimDQN, "MultiInputPolicy", Seen(MANY, spaces.Discrete(4)), {}),
    "own extractor": (
        SlimPPO,
        "MlpPolicy",
        "Pendulum-v1",
        {"features_extractor_class": Convolutions, "net_arch": {"pi": [24], "vf": [16, 8]}},
    ),
    "binary actions": (SlimPPO, "MlpPolicy", Seen(spaces.Box(-1, 1, (4,)), spaces.MultiBinary(3)), {}),
    "discrete observations": (SlimA2C, "MlpPolicy", Seen(spaces.Discrete(7), spaces.Discrete(2)), {}),
}


class CountsModes(Convolutions):
    """Has something of its own to do when its mode is set."""

    calls = 0

    def train(self, mode=True):
        CountsModes.calls += 1
        return super().train(mode)


def made(name):
    kind, policy, env, kwargs = CASES[name]
    buffer = (
        {"buffer_size": 50}
        if kind in (SlimDQN, SlimSAC)
        else {"n_steps": 8}
        if kind is SlimA2C
        else {"n_steps": 8, "batch_size": 8}
    )
    return kind(policy, env, widths=WIDTHS, rule="every", device="cpu", seed=0, policy_kwargs=kwargs, **buffer)


def seen_by(slimmable, count=4):
    space = copy.deepcopy(slimmable.observation_space)
    space.seed(1)
    drawn = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([each[key] for each in drawn]) for key in space.spaces}
    return np.stack(drawn)


def outputs(policy, seen):
    """Values and action distributions, or Q-values, of a policy."""
    tensor, _ = policy.obs_to_tensor(seen)
    with torch.no_grad():
        if hasattr(policy, "q_net"):
            return (policy.q_net(tensor),)
        if hasattr(policy, "actor"):
            mean, log_std, _ = policy.actor.get_action_dist_params(tensor)
            return mean, log_std, *policy.critic(tensor, torch.zeros(len(mean), mean.shape[1]))
        distribution = policy.get_distribution(tensor).distribution
        kinds = distribution if isinstance(distribution, list) else [distribution]
        return policy.predict_values(tensor), *[getattr(kind, "logits", kind.mean) for kind in kinds]


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_extracted_model_computes_what_the_slimmable_one_does(name, width):
    slimmable = made(name)
    seen = seen_by(slimmable)
    slim.set_width(slimmable.policy, width)
    narrow = slimmable.extract(width)
    assert type(narrow) is type(slimmable).plain
    for ours, theirs in zip(outputs(slimmable.policy, seen), outputs(narrow.policy, seen), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours, theirs = (m.predict(seen, deterministic=True)[0] for m in (slimmable, narrow))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_every_policy_trains_and_its_outputs_stay_full(name):
    slimmable = made(name)
    before = {key: value.clone() for key, value in slimmable.policy.state_dict().items()}
    slimmable.learn(104 if hasattr(slimmable, "replay_buffer") else 16)
    after = slimmable.policy.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert any("weight" in key for key in changed)
    seen = seen_by(slimmable)
    shapes = set()
    for width in WIDTHS.widths:
        slim.set_width(slimmable.policy, width)
        shapes.add(tuple(tuple(each.shape) for each in outputs(slimmable.policy, seen)))
    assert len(shapes) == 1


def test_noise_of_one_deviation_for_all_actions_is_that_of_the_active_units():
    kwargs = {"net_arch": [16, 16], "full_std": False}
    slimmable = model("PPO, state-dependent noise", policy_kwargs=kwargs).learn(32)
    narrow = slimmable.extract(0.25)
    slim.set_width(slimmable.policy, 0.25)
    seen = torch.from_numpy(observations(slimmable))
    ours, theirs = (each.policy.get_distribution(seen).distribution.stddev for each in (slimmable, narrow))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", KINDS)
def test_full_width_is_the_ordinary_policy_bit_for_bit(name):
    slimmable, plain = model(name), plain_twin(name)
    seen = observations(slimmable)
    for ours, theirs in zip(outputs(slimmable.policy, seen), outputs(plain.policy, seen), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", KINDS)
def test_extracted_model_trains_on_as_an_ordinary_one(name):
    slimmable = model(name)
    slimmable.learn(64)
    narrow = slimmable.extract(0.5)
    narrow.set_env(plain_twin(name).env)
    narrow.learn(64)
    assert next(layer.out_features for layer in narrow.policy.modules() if isinstance(layer, torch.nn.Linear)) == 8


def test_extract_leaves_random_numbers_and_the_model_alone():
    slimmable = model("SAC")
    slimmable.learn(60)
    draws = slimmable.action_space.np_random.bit_generator
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), str(draws.state)
    weights = {name: value.clone() for name, value in slimmable.policy.state_dict().items()}
    narrow = slimmable.extract(0.25)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert before[2] == str(draws.state)
    assert all(torch.equal(weights[name], value) for name, value in slimmable.policy.state_dict().items())
    assert torch.equal(narrow.log_ent_coef, slimmable.log_ent_coef)
    ours, target = narrow.critic.state_dict(), narrow.critic_target.state_dict()
    assert all(torch.equal(ours[name], target[name]) for name in ours)


@pytest.mark.parametrize("name", KINDS)
def test_frozen_policy_predicts_the_same_and_stays_in_eval_mode(name):
    slimmable = model(name)
    slimmable.learn(64)
    frozen = slim.freeze(slimmable.policy, [0.25, 1.0])
    seen = observations(slimmable)
    for width in (0.25, 1.0):
        slim.set_width(slimmable.policy, width)
        slim.set_width(frozen, width)
        ours, theirs = (p.predict(seen, deterministic=True)[0] for p in (slimmable.policy, frozen))
        np.testing.assert_array_equal(ours, theirs)
    assert frozen.device == torch.device("cpu")
    with pytest.raises(RuntimeError, match="a frozen network is a snapshot for serving and cannot be trained"):
        frozen.set_training_mode(True)


@pytest.mark.parametrize("name", KINDS)
def test_modes_are_set_as_the_ordinary_policy_sets_them(name):
    slimmable, plain = model(name), plain_twin(name)
    for mode in (True, False, True):
        slimmable.policy.set_training_mode(mode)
        plain.policy.set_training_mode(mode)
        modes = [[module.training for module in each.policy.modules()] for each in (slimmable, plain)]
        assert modes[0] == modes[1]
    slimmable.policy.train(False)  # by torch's own way
    assert not any(module.training for module in slimmable.policy.modules())


def test_module_with_a_train_of_its_own_keeps_it():
    kwargs = {"features_extractor_class": CountsModes}
    slimmable = SlimPPO("MlpPolicy", "Pendulum-v1", device="cpu", widths=WIDTHS, policy_kwargs=kwargs)
    before = CountsModes.calls
    slimmable.policy.set_training_mode(False)
    assert CountsModes.calls > before


@pytest.mark.parametrize("name", KINDS)
def test_policy_is_copied_and_pickled_after_training(name):
    slimmable = model(name)
    slimmable.learn(64)
    seen = observations(slimmable)
    slim.set_width(slimmable.policy, 0.5)
    again = [copy.deepcopy(slimmable.policy), pickle.loads(pickle.dumps(slimmable.policy))]
    for policy in again:
        slim.set_width(policy, 0.5)
        for ours, theirs in zip(outputs(slimmable.policy, seen), outputs(policy, seen), strict=True):
            assert torch.equal(ours, theirs)


def test_parameters_from_a_vector_are_seen():
    slimmable = model("PPO")
    slim.set_width(slimmable.policy, 0.5)
    seen = observations(slimmable)
    slimmable.policy.load_from_vector(slimmable.policy.parameters_to_vector() * 2)
    fresh = copy.deepcopy(slimmable.policy)
    slim.set_width(fresh, 0.5)
    for ours, theirs in zip(outputs(slimmable.policy, seen), outputs(fresh, seen), strict=True):
        assert torch.equal(ours, theirs)


def test_making_it_slimmable_draws_no_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    plain = plain_twin("PPO")
    state = torch.get_rng_state()
    make_slimmable(plain.policy, widths=WIDTHS, options={"divisor": 4})
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(before, state)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"widths": slim.WidthRange(0.25, 0.5), "rule": "sandwich"}, "the largest width must be 1.0, not 0.5"),
        ({"rule": "sandwich"}, "Sandwich cannot draw 4 different widths from the switches 0.25, 0.5, 1"),
        ({"rule": "sandwitch"}, "unknown rule 'sandwitch'; did you mean 'sandwich'?"),
        ({"rule": "sandwich", "samples": 1}, "Sandwich needs at least 2 samples"),
        ({"rule": "random", "samples": 2}, "RandomWidths cannot distil"),
        ({"behaviour": "narrow"}, "behaviour 'narrow' must be full, smallest, sampled, or a width such as 0.5"),
        ({"behaviour": 0.3}, "0.3"),
        ({"distill": False, "distill_values": 0.5}, "distill_values is a part of distillation, and distill is False"),
        ({"distill_values": -1.0}, "distill_values -1.0 is a weight, at least 0"),
        ({"convert_options": {"divisor": 0}}, "divisor 0 must be a whole number of channels"),
        ({"widths": [0.25, 0.5, 1.0]}, "widths=[0.25, 0.5, 1.0] must be Switches"),
        ({"convert_options": {"divisr": 8}}, "unknown option of slimlib.convert: 'divisr'; did you mean 'divisor'?"),
        ({"policy_kwargs": {"net_arch": []}}, "nothing slims"),
        ({"policy_kwargs": {"net_arch": []}}, "give it some, for example policy_kwargs={'net_arch': [64, 64]}"),
        (
            {"widths": slim.Switches(0.9, 1.0), "policy_kwargs": {"net_arch": [4]}},
            "at the smallest width 0.9 every layer has all its units",
        ),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_cannot_be_made_slimmable_is_refused(changes, says):
    with pytest.raises(ValueError) as error:
        model("PPO", **changes)
    assert says in str(error.value)


def test_widths_in_a_list_are_refused_at_the_other_door():
    policy = plain_twin("PPO").policy
    with pytest.raises(ValueError, match=r"widths=\[0.5, 1.0\] must be Switches"):
        make_slimmable(policy, widths=[0.5, 1.0], options={})


def test_q_values_are_not_distilled_twice():
    with pytest.raises(ValueError, match="SlimDQN acts by its values, which distill=True regresses"):
        model("DQN", distill_values=0.5)


def test_policy_of_another_family_is_refused():
    policy = TD3("MlpPolicy", "Pendulum-v1", device="cpu", buffer_size=10).policy
    with pytest.raises(ValueError, match="TD3Policy is no policy of PPO, A2C, DQN or SAC"):
        make_slimmable(policy, widths=WIDTHS, options={})
    with pytest.raises(ValueError, match="this SlimActorCriticPolicy is slimmable already"):
        make_slimmable(model("PPO").policy, widths=WIDTHS, options={})


@pytest.mark.parametrize(
    ("kind", "env", "says"),
    [
        (SlimSAC, "CartPole-v1", "Discrete"),
        (SlimDQN, "Pendulum-v1", "Box"),
        (SlimPPO, Seen(spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))), spaces.Discrete(2)), "Tuple"),
    ],
)
def test_spaces_that_the_algorithm_cannot_take_are_named(kind, env, says):
    with pytest.raises((AssertionError, NotImplementedError, ValueError), match=says):
        kind("MlpPolicy", env, device="cpu")


def test_width_out_of_range_names_the_allowed_ones():
    slimmable = model("PPO")
    with pytest.raises(ValueError, match=r"0\.25, 0\.5, 1"):
        slim.set_width(slimmable.policy, 0.3)


def test_report_names_what_slims_and_what_stays():
    report = str(model("DQN").policy.slim)
    assert "q_net.q_net.0" in report
    assert "full: q_net_target.q_net.0 (never ran on the example)" in report


def test_saved_weights_are_those_of_the_ordinary_policy():
    buffer = io.BytesIO()
    slimmable = model("PPO")
    slimmable.save(buffer)
    buffer.seek(0)
    plain = PPO.load(buffer, device="cpu")
    seen = observations(slimmable)
    for ours, theirs in zip(outputs(slimmable.policy, seen), outputs(plain.policy, seen), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["images, DQN", "images, SAC"])
def test_targets_and_optimizers_move_along_where_channels_are_sorted(name):
    kind, policy, env, arguments = CASES[name]
    trained = kind(policy, env, policy_kwargs=arguments, seed=0, buffer_size=10)
    online, target = (
        (trained.q_net, trained.q_net_target) if kind is SlimDQN else (trained.critic, trained.critic_target)
    )
    before = online.state_dict()["features_extractor.cnn.0.weight"].clone()
    parts = [trained.policy] if kind is SlimDQN else [trained.actor, trained.critic]
    optimizers = [part.optimizer for part in parts]
    for optimizer in optimizers:
        for parameter in optimizer.param_groups[0]["params"]:
            optimizer.state[parameter]["exp_avg"] = parameter.detach().clone()
    slim.sort_channels(trained.policy, slim.channel_scores(trained.policy), optimizer=optimizers)
    assert not torch.equal(online.state_dict()["features_extractor.cnn.0.weight"], before)
    for own, theirs in zip(online.parameters(), target.parameters(), strict=True):
        assert torch.equal(own, theirs)
    for optimizer in optimizers:
        assert all(torch.equal(p, optimizer.state[p]["exp_avg"]) for p in optimizer.param_groups[0]["params"])


@pytest.mark.parametrize("name", ["PPO", "PPO, state-dependent noise", "DQN", "SAC"])
def test_policies_are_counted_and_searched_as_any_network(name, monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # False after any torch.compile
    policy = model(name).policy
    observation = torch.from_numpy(observations(model(name), 1))
    groups = policy.slim.layout.groups
    plan = slim.WidthPlan([3 + number for number in range(len(groups))])
    counted = slim.cost(policy, observation, width=plan)
    assert counted.macs == slim.cost(slim.extract(policy, plan), observation).macs
    costs = slim.plan_costs(policy, observation)([plan])
    assert (int(costs.macs[0]), int(costs.params[0])) == (counted.macs, counted.params)

    def size(net):
        assert torch.distributions.Distribution._validate_args
        return sum(layer.weight.square().sum().item() for layer in net.modules() if isinstance(layer, torch.nn.Linear))

    (found,) = slim.search(policy, size, 0.5, example=observation)
    full, here = slim.cost(policy, observation).macs, slim.cost(policy, observation, width=found.plan).macs
    assert found.macs == here <= 0.5 * full


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "SAC"])
def test_plans_are_trained_as_switches(name, tmp_path):
    groups = len(model(name).slimming.layout.groups)
    plans = [slim.WidthPlan([units] * groups) for units in (3, 10, 16)]
    slimmable = model(name, widths=slim.Switches(*plans)).learn(40)
    slimmable.save(tmp_path / "model")
    loaded = type(slimmable).load(tmp_path / "model")
    again = type(model(name)).load(tmp_path / "model", widths=slim.Switches(plans[0], plans[2]))
    for plan in (plans[0], plans[2]):
        for each in (slimmable, loaded, again):
            slim.set_width(each.policy, plan)
        seen = observations(slimmable)
        expected = slimmable.predict(seen, deterministic=True)[0]
        for each in (loaded, again, slimmable.extract(plan)):
            np.testing.assert_allclose(each.predict(seen, deterministic=True)[0], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"must be all of the policy, WidthPlan\(channels=\(16, .*add it to the Sw"):
        model(name, widths=slim.Switches(*plans[:2]))
