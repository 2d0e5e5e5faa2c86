"""What stable-baselines3 builds from narrow_policy_kwargs acts as the slimmable policy does at that width."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.dqn import policies as dqn
from stable_baselines3.sac import policies as sac
from torch import Tensor, nn

import slimlib as slim
from slimlib.rl.narrowing import NarrowedExtractor, narrow_policy_kwargs
from tests.processes import Forked
from tests.slimlib.rl.narrow_policies import (
    BOTH,
    FORCE,
    IMAGE,
    NORMALISED,
    ONE_OF_FOUR,
    VECTOR,
    WIDTHS,
    OwnExtractor,
    actor_critic,
    arguments,
    built,
    path_of,
    slimmed,
)


def with_targets(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a narrow policy; its target networks are still the full ones, and begin anew."""
    online = {"q_net_target.": "q_net.", "critic_target.": "critic."}
    own = {name: name.replace(target, own) for target, own in online.items() for name in state if target in name}
    return {name: state[own.get(name, name)] for name in state}


CASES: dict[str, tuple[type[BasePolicy], spaces.Space[Any], dict[str, Any]]] = {
    "mlp": (ActorCriticPolicy, VECTOR, {}),
    "mlp by list": (ActorCriticPolicy, VECTOR, {"net_arch": [16, 8], "activation_fn": nn.ReLU}),
    "mlp of two": (ActorCriticPolicy, VECTOR, {"net_arch": {"pi": [16], "vf": [24, 8]}}),
    "mlp of one": (ActorCriticPolicy, VECTOR, {"net_arch": {"vf": [24]}, "share_features_extractor": False}),
    "cnn": (ActorCriticCnnPolicy, IMAGE, {}),
    "cnn of two": (ActorCriticCnnPolicy, IMAGE, {"share_features_extractor": False, "net_arch": [8]}),
    "cnn of size": (ActorCriticCnnPolicy, IMAGE, {"features_extractor_kwargs": {"features_dim": 32}}),
    "cnn of normalised": (ActorCriticCnnPolicy, NORMALISED, {"normalize_images": False}),
    "dict": (MultiInputActorCriticPolicy, BOTH, {"net_arch": [16]}),
    "dict of two": (MultiInputActorCriticPolicy, BOTH, {"share_features_extractor": False}),
    "own": (ActorCriticPolicy, IMAGE, {"features_extractor_class": OwnExtractor, "net_arch": [16]}),
    "own of two": (ActorCriticPolicy, IMAGE, {"features_extractor_class": OwnExtractor}),
    "q mlp": (dqn.DQNPolicy, VECTOR, {}),
    "q linear": (dqn.CnnPolicy, IMAGE, {}),
    "q cnn": (dqn.CnnPolicy, IMAGE, {"net_arch": [16, 8]}),
    "q dict": (dqn.MultiInputPolicy, BOTH, {}),
    "q own": (dqn.DQNPolicy, IMAGE, {"features_extractor_class": OwnExtractor}),
    "sac mlp": (sac.SACPolicy, VECTOR, {"net_arch": [16, 8]}),
    "sac of two": (sac.SACPolicy, VECTOR, {"net_arch": {"pi": [16], "qf": [24, 8]}, "n_critics": 3}),
    "sac cnn": (sac.CnnPolicy, IMAGE, {"net_arch": [16]}),
    "sac cnn shared": (sac.CnnPolicy, IMAGE, {"net_arch": [16], "share_features_extractor": True}),
    "sac dict": (sac.MultiInputPolicy, BOTH, {"net_arch": [16]}),
    "sac own": (sac.SACPolicy, IMAGE, {"features_extractor_class": OwnExtractor, "share_features_extractor": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_ordinary_policy_computes_what_the_slimmable_one_does(case: str) -> None:
    kind, space, kwargs = CASES[case]
    torch.manual_seed(0)
    full = slimmed(built(kind, space, kwargs))
    args, path = arguments(full), path_of(full)
    for width in WIDTHS:
        narrow = slim.extract(full, width)
        ordinary = built(kind, space, narrow_policy_kwargs(narrow, kwargs)).eval()
        assert ordinary.state_dict().keys() == full.state_dict().keys()
        ordinary.load_state_dict(with_targets(narrow.state_dict()))
        with slim.at_width(full, width), torch.no_grad():
            wanted, same, got = path(full, *args), path(narrow, *args), path(ordinary, *args)
        for ours, extracted, slimmable in zip(_all(got), _all(same), _all(wanted), strict=True):
            assert torch.equal(ours, extracted)
            assert torch.allclose(ours, slimmable, rtol=1e-5, atol=1e-6)


def _all(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize(
    ("case", "net_arch"),
    [
        ("mlp", {"pi": [32, 32], "vf": [32, 32]}),
        ("mlp of two", {"pi": [8], "vf": [12, 4]}),
        ("mlp of one", {"pi": [], "vf": [12]}),
        ("cnn", {"pi": [], "vf": []}),
        ("q linear", []),
        ("q cnn", [8, 4]),
        ("sac of two", {"pi": [8], "qf": [12, 4]}),
    ],
)
def test_hidden_layers_are_said_in_net_arch(case: str, net_arch: Any) -> None:
    kind, space, kwargs = CASES[case]
    full = slimmed(built(kind, space, kwargs))
    assert narrow_policy_kwargs(slim.extract(full, 0.5), kwargs)["net_arch"] == net_arch


def test_other_arguments_stay_and_no_extractor_is_named_without_need() -> None:
    kwargs = {"net_arch": [16], "optimizer_class": torch.optim.SGD, "ortho_init": False}
    full = slimmed(built(ActorCriticPolicy, VECTOR, kwargs))
    narrow = narrow_policy_kwargs(slim.extract(full, 0.5), kwargs)
    assert narrow == kwargs | {"net_arch": {"pi": [8], "vf": [8]}}
    assert kwargs["net_arch"] == [16]


def test_an_extractor_at_full_width_is_the_ordinary_one() -> None:
    full = slimmed(built(ActorCriticCnnPolicy, IMAGE, {}))
    assert "features_extractor_class" not in narrow_policy_kwargs(slim.extract(full, 1.0), {})


def test_a_batchnorm_in_an_extractor_is_narrow_too() -> None:
    kwargs = {"features_extractor_class": OwnExtractor, "features_extractor_kwargs": {"norm": "batch"}}
    full = slimmed(built(ActorCriticPolicy, IMAGE, kwargs), norm="shared")
    narrow = slim.extract(full, 0.5)
    ordinary = built(ActorCriticPolicy, IMAGE, narrow_policy_kwargs(narrow, kwargs)).eval()
    ordinary.load_state_dict(narrow.state_dict())
    args = arguments(full)
    assert torch.equal(actor_critic(ordinary, *args)[0], actor_critic(narrow, *args)[0])
    assert ordinary.features_extractor.body[1].num_features == 8


def test_nothing_that_is_drawn_later_changes() -> None:
    full = slimmed(built(ActorCriticCnnPolicy, IMAGE, {}))
    narrow = slim.extract(full, 0.5)
    narrow.observation_space.seed(0)
    before, drawn = torch.get_rng_state(), copy.deepcopy(narrow.observation_space).sample()
    narrow_policy_kwargs(narrow, {})
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(narrow.observation_space.sample(), drawn)


def narrowed() -> BaseFeaturesExtractor:
    full = slimmed(built(ActorCriticCnnPolicy, IMAGE, {}))
    kwargs = narrow_policy_kwargs(slim.extract(full, 0.5), {})
    assert kwargs["features_extractor_class"] is NarrowedExtractor
    return NarrowedExtractor(IMAGE, **kwargs["features_extractor_kwargs"])


def test_a_narrowed_extractor_is_one_of_its_base_with_narrow_layers() -> None:
    extractor = narrowed()
    assert type(extractor) is NatureCNN
    assert extractor.features_dim == extractor.linear[0].out_features == 256
    assert (extractor.cnn[2].in_channels, extractor.cnn[2].out_channels) == (16, 32)
    assert next(iter(extractor.state_dict())) == "cnn.0.weight"


def test_a_narrowed_extractor_is_initialised_for_its_own_size() -> None:
    """torch draws weights from +-1/sqrt(inputs), and there are fewer inputs."""
    weight = narrowed().cnn[2].weight
    assert weight.abs().max() > 0.98 * (16 * 4 * 4) ** -0.5


def test_a_narrowed_extractor_can_be_copied_and_narrowed_again() -> None:
    kwargs = narrow_policy_kwargs(slim.extract(slimmed(built(dqn.CnnPolicy, IMAGE, {})), 0.5), {})
    again = slimmed(copy.deepcopy(built(dqn.CnnPolicy, IMAGE, kwargs)))
    twice = slim.extract(again, 0.5)
    ordinary = built(dqn.CnnPolicy, IMAGE, narrow_policy_kwargs(twice, kwargs)).eval()
    ordinary.load_state_dict(with_targets(twice.state_dict()))
    assert ordinary.q_net.features_extractor.cnn[0].out_channels == 8
    assert torch.equal(ordinary.q_net(*arguments(again)), twice.q_net(*arguments(again)))


class Camera(gymnasium.Env[Any, Any]):
    """Images of noise, alone or with a vector."""

    def __init__(self, space: spaces.Space[Any], actions: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = space, actions

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, _: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


WITHOUT_SLIMLIB = """
import sys

class NoSlimlib:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("slimlib", "tests"):
            raise ImportError("there is no slimlib here")

sys.meta_path.insert(0, NoSlimlib())
import pickle, pathlib
import torch
from stable_baselines3 import DQN, PPO, SAC

torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[1])
for kind in (PPO, DQN, SAC):
    observations, actions, values = pickle.loads((folder / f"{kind.__name__}.pkl").read_bytes())
    model = kind.load(folder / kind.__name__, device="cpu")
    model.save(folder / "again")
    policies = [model.policy, kind.load(folder / "again", device="cpu").policy]
    policies.append(type(model.policy).load(folder / f"{kind.__name__}.policy", device="cpu"))
    for policy in policies:
        policy.set_training_mode(False)
        assert (policy.predict(observations, deterministic=True)[0] == actions).all(), kind
        if values is not None:
            tensors, _ = policy.obs_to_tensor(observations)
            assert torch.equal(policy.predict_values(tensors), values), kind
assert not any(name.split(".")[0] == "slimlib" for name in sys.modules)
"""


def test_a_model_of_a_narrow_policy_loads_without_slimlib(tmp_path: Path) -> None:
    environments = {
        "PPO": (PPO, "CnnPolicy", Camera(IMAGE, ONE_OF_FOUR), {"n_steps": 4, "batch_size": 4}),
        "DQN": (DQN, "MultiInputPolicy", Camera(BOTH, ONE_OF_FOUR), {"buffer_size": 4}),
        "SAC": (SAC, "CnnPolicy", Camera(IMAGE, FORCE), {"buffer_size": 4, "policy_kwargs": {"net_arch": [16]}}),
    }
    for name, (kind, policy, environment, options) in environments.items():
        full = kind(policy, environment, device="cpu", seed=0, **options)
        narrow = slim.extract(slimmed(full.policy), 0.5)
        kwargs = narrow_policy_kwargs(narrow, full.policy_kwargs)
        ordinary = kind(policy, environment, device="cpu", **(options | {"policy_kwargs": kwargs}))
        ordinary.policy.load_state_dict(with_targets(narrow.state_dict()))
        observations, values = stacked(environment.observation_space), None
        if name == "PPO":
            values = narrow.predict_values(narrow.obs_to_tensor(observations)[0]).detach()
        with slim.at_width(full.policy, 0.5):
            actions, _ = full.policy.predict(observations, deterministic=True)
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps((observations, actions, values)))
        ordinary.save(tmp_path / name)
        ordinary.policy.save(tmp_path / f"{name}.policy")
    process = Forked(partial(without_slimlib, tmp_path))
    _, err = process.communicate(timeout=120)
    assert process.exitcode == 0, err


def without_slimlib(folder: Path) -> int:
    """Run the script where neither slimlib nor these tests are imported, or can be."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("slimlib", "tests")]:
        del sys.modules[name]
    sys.argv[1:] = [str(folder)]
    exec(WITHOUT_SLIMLIB, {})
    return 0


def stacked(space: spaces.Space[Any]) -> Any:
    drawn = [space.sample() for _ in range(3)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([each[key] for each in drawn]) for key in drawn[0]}
    return np.stack(drawn)
