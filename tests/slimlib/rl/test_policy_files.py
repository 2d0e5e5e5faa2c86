"""A policy that is saved alone comes back slimmable; nothing of a hostile file runs."""

import copy
import io
import pickle
import zipfile

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy
from stable_baselines3.sac.policies import SACPolicy

import slimlib as slim
from slimlib.core.unpickling import Refused, unpickle
from slimlib.rl import SlimPPO, load_policy
from slimlib.rl.allowed_classes import MODEL
from slimlib.rl.loading import UnsafeModelError
from tests.slimlib.rl.models import KINDS, WIDTHS, Convolutions, Seen, model, observations, plain_twin
from tests.slimlib.rl.pickles import Runs, attacks
from tests.slimlib.rl.test_policies import CASES, made, outputs, seen_by

FAMILIES = {"PPO": ActorCriticPolicy, "A2C": ActorCriticPolicy, "DQN": DQNPolicy, "SAC": SACPolicy}


def saved(policy):
    buffer = io.BytesIO()
    policy.save(buffer)
    buffer.seek(0)
    return buffer


def same_at_every_width(ours, theirs, seen):
    for width in ours.slim.widths.widths:
        slim.set_width(ours, width)
        slim.set_width(theirs, width)
        for a, b in zip(outputs(ours, seen), outputs(theirs, seen), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", KINDS)
def test_loaded_policy_is_the_saved_one_at_every_width(name, tmp_path):
    policy = model(name).learn(48).policy
    slim.set_width(policy, 0.5)
    policy.save(tmp_path / "policy.pth")
    loaded = type(policy).load(tmp_path / "policy.pth")
    assert type(loaded) is type(policy)
    assert slim.current_width(loaded) == 1.0
    assert str(loaded.slim) == str(policy.slim)
    same_at_every_width(policy, loaded, observations(policy))


@pytest.mark.parametrize("name", [name for name in CASES if name != "own extractor"])
def test_policies_of_every_observation_come_back(name):
    slimmable = made(name)
    same_at_every_width(slimmable.policy, load_policy(saved(slimmable.policy)), seen_by(slimmable))


def test_extractor_of_ones_own_is_allowed_by_name():
    slimmable = made("own extractor")
    with pytest.raises(UnsafeModelError, match=r"refers to '.*Convolutions', .*Pass allow=\[Convolutions\]"):
        load_policy(saved(slimmable.policy))
    same_at_every_width(
        slimmable.policy, load_policy(saved(slimmable.policy), allow=[Convolutions]), seen_by(slimmable)
    )
    same_at_every_width(slimmable.policy, load_policy(saved(slimmable.policy), trusted=True), seen_by(slimmable))


class Normed(Convolutions):
    """With a BatchNorm, whose statistics belong to a width."""

    def __init__(self, observation_space, features_dim=12):
        super().__init__(observation_space, features_dim)
        self.along = torch.nn.Sequential(torch.nn.Conv1d(1, 8, 3), torch.nn.BatchNorm1d(8), torch.nn.Flatten())


@pytest.mark.parametrize("norm", ["switchable", "shared"])
def test_norm_travels_with_policies_and_models(norm, tmp_path):
    kwargs = {"features_extractor_class": Normed, "net_arch": [16]}
    slimmable = model("PPO, continuous", policy_kwargs=kwargs, convert_options={"norm": norm}).learn(32)
    slimmable.save(tmp_path / "model")
    loaded = SlimPPO.load(tmp_path / "model", allow=[Normed])
    policy = load_policy(saved(slimmable.policy), allow=[Normed])
    for each in (loaded.policy, policy):
        assert str(each.slim.norm) == norm
        each.set_training_mode(False)
        slimmable.policy.set_training_mode(False)
        same_at_every_width(slimmable.policy, each, observations(slimmable))


@pytest.mark.parametrize("name", FAMILIES)
def test_ordinary_class_loads_the_file_too(name, tmp_path):
    policy = model(name).policy
    policy.save(tmp_path / "policy.pth")
    plain = FAMILIES[name].load(tmp_path / "policy.pth")
    assert type(plain) is FAMILIES[name]
    for a, b in zip(outputs(policy, observations(policy)), outputs(plain, observations(policy)), strict=True):
        assert torch.equal(a, b)


def test_ordinary_policy_is_refused_with_what_to_call(tmp_path):
    plain_twin("PPO").policy.save(tmp_path / "policy.pth")
    with pytest.raises(ValueError, match=r"policy\.pth: an ordinary policy, not a slimmable one; .*make_slimmable"):
        type(model("PPO").policy).load(tmp_path / "policy.pth")


def test_policy_of_another_class_is_refused(tmp_path):
    model("DQN").policy.save(tmp_path / "policy.pth")
    with pytest.raises(ValueError, match="is a DQNPolicy, and no ActorCriticPolicy"):
        type(model("PPO").policy).load(tmp_path / "policy.pth")


def test_frozen_policy_says_what_to_save_instead(tmp_path):
    frozen = slim.freeze(model("PPO").policy, [0.5, 1.0])
    with pytest.raises(RuntimeError, match=r"save the policy that it was made from, or slimlib\.extract"):
        frozen.save(tmp_path / "policy.pth")
    assert not (tmp_path / "policy.pth").exists()


def test_extracted_policy_is_saved_and_loaded_as_an_ordinary_one(tmp_path):
    narrow = model("PPO").extract(0.5).policy
    narrow.save(tmp_path / "narrow.pth")
    again = ActorCriticPolicy.load(tmp_path / "narrow.pth")
    seen = observations(narrow)
    for a, b in zip(outputs(narrow, seen), outputs(again, seen), strict=True):
        assert torch.equal(a, b)


def with_pickle(content):
    """A saved policy with another pickle in it."""
    source, target = saved(model("PPO").policy), io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("/data.pkl") else old.read(name))
    target.seek(0)
    return target


@pytest.mark.parametrize("attack", attacks("marker"))
def test_nothing_of_a_hostile_policy_runs(attack, tmp_path):
    marker = tmp_path / "marker"
    with pytest.raises(UnsafeModelError, match="the policy .*, and nothing of it was run"):
        load_policy(with_pickle(attacks(str(marker))[attack]))
    assert not marker.exists()


def test_only_one_attribute_is_ever_asked_for():
    for asked in (Runs(getattr, ActorCriticPolicy, "load"), Runs(getattr, torch.nn.ReLU, "forward")):
        with pytest.raises(UnsafeModelError):
            load_policy(with_pickle(pickle.dumps(asked, 2)))


@pytest.mark.parametrize("member", [TrainFrequencyUnit.EPISODE, GoalSelectionStrategy.FUTURE])
def test_members_of_enumerations_are_read_as_each_python_writes_them(member):
    for written in (member, Runs(getattr, type(member), member.name)):  # the latter: Python 3.11.0 to 3.11.3
        assert unpickle(pickle.dumps(written, 2), MODEL) is member
    with pytest.raises(Refused, match="asks for an attribute of something"):
        unpickle(pickle.dumps(Runs(getattr, type(member), "mro"), 2), MODEL)


class Rebuilt:
    """A tensor that claims to be larger than what is stored."""

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (STORAGE, 0, (10**9, 10**3), (10**3, 1), False, {})


STORAGE = torch.zeros(4).storage()


def test_tensor_takes_no_more_memory_than_the_file_has():
    buffer = io.BytesIO()
    torch.save({"state_dict": {"a": Rebuilt()}, "data": {}}, buffer)
    buffer.seek(0)
    with pytest.raises(UnsafeModelError, match="holds a tensor that reaches out of its storage"):
        load_policy(buffer)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off"])
def test_damaged_file_is_named(content, tmp_path):
    (tmp_path / "policy.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"policy\.pth: damaged, or no policy"):
        load_policy(tmp_path / "policy.pth")


def test_other_files_of_torch_are_named(tmp_path):
    torch.save({"a": 1}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth: no policy of stable-baselines3"):
        load_policy(tmp_path / "weights.pth")
    torch.jit.script(torch.nn.ReLU()).save(tmp_path / "program.pth")
    with pytest.raises(ValueError, match=r"program\.pth: a TorchScript program, and no policy"):
        load_policy(tmp_path / "program.pth")
    slimmable = model("PPO")
    slimmable.save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"model\.zip: a whole model, and no policy alone; load it with `load`"):
        load_policy(tmp_path / "model.zip")
    slimmable.policy.save(tmp_path / "alone.zip")
    with pytest.raises(ValueError, match=r"alone\.zip: no model .* read by slimlib\.rl\.load_policy"):
        SlimPPO.load(tmp_path / "alone.zip")
    with pytest.raises(ValueError, match=r"none\.pth: cannot be opened"):
        load_policy(tmp_path / "none.pth")


def test_spaces_draw_on_where_they_were():
    slimmable = SlimPPO("MlpPolicy", Seen(spaces.Box(-1, 1, (3,)), spaces.Discrete(5)), widths=WIDTHS, seed=3)
    drawing = copy.deepcopy(slimmable.policy.action_space)
    loaded = load_policy(saved(slimmable.policy))
    assert [loaded.action_space.sample() for _ in range(9)] == [drawing.sample() for _ in range(9)]
