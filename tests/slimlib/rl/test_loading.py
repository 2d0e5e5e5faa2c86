"""A model that somebody else made is read whole if it is an ordinary one, and refused by name if not; nothing runs."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common import save_util
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule, set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv

from slimlib.core import unpickling
from slimlib.core.unpickling import Refused
from slimlib.core.width import Switches, WidthPlan, WidthRange
from slimlib.rl import load_policy
from slimlib.rl.allowed_classes import MODEL
from slimlib.rl.loading import (
    UnsafeModelError,
    check_algorithm,
    check_environment_fits,
    check_methods_stay,
    read_safely,
)
from tests.slimlib.rl.pickles import filled, named
from tests.slimlib.rl.saved_models import ALGORITHMS, SLIMMABLE, changed, holding, made


def unpickle(content: bytes, allow: Sequence[Any] = ()) -> Any:
    return unpickling.unpickle(content, MODEL.and_own(allow))


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("stable-baselines3 unpickles something")


@pytest.mark.parametrize("name", SLIMMABLE)
def test_training_goes_on_as_after_loading_with_stable_baselines3_itself(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nothing of the file is lost; and stable-baselines3 unpickles nothing."""
    own = ALGORITHMS[name].load(folder / name)
    monkeypatch.setattr(save_util.cloudpickle, "loads", never)
    safe = ALGORITHMS[name].load(folder / name, custom_objects=read_safely(folder / name))
    for model in (own, safe):
        set_random_seed(0)
        environment = gymnasium.make("Pendulum-v1" if name == "SAC" else "CartPole-v1")
        environment.reset(seed=0)
        model.set_env(DummyVecEnv([lambda environment=environment: environment]))
        model.learn(40, reset_num_timesteps=False)
    for ours, theirs in zip(safe.policy.parameters(), own.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", SLIMMABLE)
def test_every_attribute_is_what_stable_baselines3_would_unpickle(folder: Path, name: str) -> None:
    with zipfile.ZipFile(folder / f"{name}.zip") as archive:
        theirs = save_util.json_to_data(archive.read("data").decode())
    ours = read_safely(folder / f"{name}.zip")
    assert ours.keys() == theirs.keys()
    assert ours["observation_space"] == theirs["observation_space"]
    assert ours["action_space"].np_random.bit_generator.state == theirs["action_space"].np_random.bit_generator.state
    for computed in ("lr_schedule", "exploration_schedule"):
        ours.pop(computed, None), theirs.pop(computed, None)
    for key, value in ours.items():
        assert type(value) is type(theirs[key]), key
        if not key.endswith("_space"):
            assert repr(value) == repr(theirs[key]) or "object at 0x" in repr(value), key


def test_models_with_their_buffers_can_be_read(folder: Path, tmp_path: Path) -> None:
    model = made("DQN").learn(12)
    model.save(tmp_path / "whole.zip", include=["replay_buffer"])
    read = read_safely(tmp_path / "whole.zip")["replay_buffer"]
    assert np.array_equal(read.observations, model.replay_buffer.observations)
    assert read.sample(2).observations.shape == (2, 4)


HARMLESS = {
    "spaces": spaces.Dict(
        {
            "box": spaces.Box(0, 255, (3, 8, 8), np.uint8),
            "several": spaces.Tuple([spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4)]),
            "text": spaces.Text(5),
            "sequence": spaces.Sequence(spaces.Discrete(3)),
            "either": spaces.OneOf([spaces.Discrete(2), spaces.Box(-1, 1, (2,))]),
            "graph": spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(2)),
        },
        seed=3,
    ),
    "numpy": [np.arange(6.0).reshape(2, 3), np.arange(6)[::2], np.zeros((0, 3)), np.float32(3), np.bool_(True)],
    "fortran": [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(["a", "bcd"]), np.array(2.0)],
    "torch": [torch.nn.SiLU, torch.optim.AdamW, torch.device("cpu"), torch.Size([2, 3]), torch.float32],
    "path": Path("runs") / "first",
    "builtins": [{1, 2}, frozenset([3]), slice(1, 2), range(3), 1j, bytearray(b"x"), 2**100, None, (1, [2])],
    "widths": [WidthRange(0.25, 1.0), Switches(0.5, 1.0), WidthPlan([1, 2])],
    "schedules": [FloatSchedule(0.1).value_schedule.val, LinearSchedule(1.0, 0.0, 0.5).end],
}


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("what", HARMLESS)
def test_harmless_values_are_read(what: str, protocol: int) -> None:
    value = HARMLESS[what]
    read = unpickle(pickle.dumps(value, protocol))
    assert repr(read) == repr(value)


def test_a_loaded_space_draws_what_the_saved_one_would(folder: Path) -> None:
    space = spaces.Box(-1, 1, (3,), seed=4)
    read = unpickle(cloudpickle.dumps(space))
    assert np.array_equal(read.sample(), space.sample())


@pytest.mark.parametrize("spelling", ["PPO", "PPO.zip"])
def test_the_ending_may_be_left_out(folder: Path, spelling: str) -> None:
    assert read_safely(str(folder / spelling))["n_steps"] == 16


def test_open_files_are_read(folder: Path) -> None:
    opened = io.BytesIO((folder / "PPO.zip").read_bytes())
    data = read_safely(opened)
    assert PPO.load(opened, custom_objects=data).n_steps == 16
    with (folder / "TD3.zip").open("rb") as file, pytest.raises(ValueError, match="TD3.zip was saved by TD3"):
        read_safely(file)


class OwnExtractor(FlattenExtractor):
    """Importable as a class of a user's own package would be."""


class OwnSchedule:
    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, left: float) -> float:
        return self.start * left


def own_function(left: float) -> float:
    return 1e-3 * left


def test_a_class_of_ones_own_is_refused_by_name_and_can_be_allowed(folder: Path, tmp_path: Path) -> None:
    path = holding(folder, tmp_path / "model.zip", "policy_kwargs", named(OwnExtractor) + b".")
    message = (
        rf"{re.escape(str(path))}: 'policy_kwargs' refers to '{OwnExtractor.__module__}.OwnExtractor', and nothing of "
        r"it was run. Pass allow=\[OwnExtractor\] if you know it, or custom_objects={'policy_kwargs': ...} to "
        "replace the value, or trusted=True if you trust whoever made the file"
    )
    with pytest.raises(UnsafeModelError, match=message):
        read_safely(path)
    assert read_safely(path, [OwnExtractor])["policy_kwargs"] is OwnExtractor


@pytest.mark.parametrize(
    ("allow", "right"), [(OwnExtractor, "OwnExtractor"), ("OwnExtractor", "MyExtractor"), (None, "MyExtractor")]
)
def test_a_wrong_allow_is_not_blamed_on_the_file(folder: Path, allow: Any, right: str) -> None:
    message = rf"^allow=.* must be a list of classes and functions, such as allow=\[{right}\]"
    with pytest.raises(ValueError, match=message):
        read_safely(folder / "PPO", allow)
    with pytest.raises(ValueError, match=message):
        load_policy(io.BytesIO(), allow=allow)


def test_what_is_replaced_is_not_unpickled(folder: Path, tmp_path: Path) -> None:
    path = holding(folder, tmp_path / "model.zip", "policy_kwargs", b"nonsense")
    assert read_safely(path, custom_objects={"policy_kwargs": {}})["policy_kwargs"] == {}


def test_instances_of_an_allowed_class_are_made() -> None:
    assert unpickle(filled(OwnSchedule, {"start": 0.5}), [OwnSchedule])(0.5) == 0.25


def test_an_allowed_function_is_named_but_not_called() -> None:
    assert unpickle(named(own_function) + b".", [own_function]) is own_function
    with pytest.raises(Refused, match="calls '.*own_function'"):
        unpickle(named(own_function) + b"(F0.5\ntR.", [own_function])


def test_code_is_refused_and_said_to_be_code(folder: Path, tmp_path: Path) -> None:
    path = holding(folder, tmp_path / "model.zip", "learning_rate", cloudpickle.dumps(lambda left: left * 1e-3))
    message = (
        "'learning_rate' holds code: a function or class saved whole, as lambdas and those of a script are, and "
        r"nothing of it was run. Pass custom_objects={'learning_rate': ...} to replace the value, or trusted=True"
    )
    with pytest.raises(UnsafeModelError, match=message):
        read_safely(path)
    assert read_safely(path, custom_objects={"learning_rate": 1e-3})["learning_rate"] == 1e-3


def test_a_replaced_schedule_is_not_asked_for_twice(tmp_path: Path) -> None:
    """`lr_schedule` holds the same lambda, but `load` computes it anew."""
    PPO("MlpPolicy", "CartPole-v1", learning_rate=lambda left: left, n_steps=8, batch_size=8).save(tmp_path / "model")
    data = read_safely(tmp_path / "model", custom_objects={"learning_rate": 0.5})
    assert PPO.load(tmp_path / "model", custom_objects=data).lr_schedule(1.0) == 0.5


def saved(path: Path, **members: Any) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return path


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model: no such file, nor .*model.zip"):
        read_safely(tmp_path / "model")
    with pytest.raises(ValueError, match=r"model.zip: no such file$"):
        read_safely(tmp_path / "model.zip")


def test_a_file_that_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_text("PPO")
    with pytest.raises(ValueError, match="model.zip: no zip, and so no model of stable-baselines3"):
        read_safely(tmp_path / "model.zip")
    with pytest.raises(ValueError, match="the file: cannot be read as a zip"):
        read_safely(io.BytesIO(b"PPO"))


@pytest.mark.parametrize("kept", [0.2, 0.9, 0.999])
def test_a_file_that_is_cut_off(folder: Path, tmp_path: Path, kept: float) -> None:
    content = (folder / "PPO.zip").read_bytes()
    (tmp_path / "model.zip").write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match="model.zip: damaged or cut off"):
        read_safely(tmp_path / "model.zip")


def test_a_file_with_other_bytes_in_it(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "PPO.zip").read_bytes())
    with zipfile.ZipFile(folder / "PPO.zip") as archive:
        inside = archive.getinfo("policy.pth").header_offset + 400
    content[inside] ^= 255
    (tmp_path / "model.zip").write_bytes(content)
    with pytest.raises(ValueError, match="model.zip: damaged, 'policy.pth' in it is not what was saved"):
        read_safely(tmp_path / "model.zip")


@pytest.mark.parametrize("members", [{"data": "{}"}, {"policy__pth": "x"}, {"readme": "x"}])
def test_a_zip_of_something_else(tmp_path: Path, members: dict[str, str]) -> None:
    path = saved(tmp_path / "model.zip", **members)
    with pytest.raises(ValueError, match="no model of stable-baselines3; those have 'data' and 'policy.pth'"):
        read_safely(path)


@pytest.mark.parametrize("data", ["{", "\xff", "[" * 100_000])
def test_data_that_is_no_json(tmp_path: Path, data: str) -> None:
    path = saved(tmp_path / "model.zip", policy__pth="x", data=data.encode("latin1"))
    with pytest.raises(ValueError, match="model.zip: damaged, 'data' in it is no JSON"):
        read_safely(path)


def test_data_that_is_no_set_of_attributes(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.zip", policy__pth="x", data="[1]")
    with pytest.raises(ValueError, match="'data' in it is a list and no attributes of a model"):
        read_safely(path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x05.", b"\x80\x05]q\x00h\x07."])
def test_a_damaged_attribute_is_named(folder: Path, tmp_path: Path, content: bytes) -> None:
    path = holding(folder, tmp_path / "model.zip", "_last_obs", content)
    with pytest.raises(ValueError, match=r"'_last_obs' cannot be read \(.*Pass custom_objects={'_last_obs': ...}"):
        read_safely(path)


@pytest.mark.parametrize("name", SLIMMABLE)
def test_an_algorithm_is_known_by_its_attributes(folder: Path, name: str) -> None:
    data = read_safely(folder / name)
    check_algorithm(folder / name, data, ALGORITHMS[name])
    for other in set(SLIMMABLE) - {name}:
        message = f"{name} was saved by {name}, and cannot be loaded by Slim{other}; use Slim{name}.load"
        with pytest.raises(ValueError, match=message):
            check_algorithm(folder / name, data, ALGORITHMS[other])


def test_a_model_of_another_algorithm_is_refused(folder: Path) -> None:
    message = "TD3.zip was saved by TD3 or DDPG; only models of PPO, A2C, DQN, SAC can be slimmable"
    with pytest.raises(ValueError, match=message):
        read_safely(folder / "TD3.zip")
    with pytest.raises(ValueError, match="was saved by another algorithm"):
        check_algorithm("model.zip", {"gamma": 0.9}, PPO)


@pytest.mark.parametrize(
    ("known", "further", "name"),
    [
        ("A2C", {"cg_max_steps": 15}, "TRPO"),
        ("PPO", {"_last_lstm_states": None}, "RecurrentPPO"),
        ("SAC", {"top_quantiles_to_drop_per_net": 2}, "TQC"),
        ("SAC", {"policy_delay": 3}, "CrossQ"),
        ("DQN", {"n_quantiles": 200}, "QRDQN"),
    ],
)
def test_algorithms_of_sb3_contrib_are_not_taken_for_their_relatives(
    folder: Path, tmp_path: Path, known: str, further: dict[str, Any], name: str
) -> None:
    path = changed(folder / f"{known}.zip", tmp_path / "model.zip", lambda data: data.update(further))
    with pytest.raises(ValueError, match=f"model.zip was saved by {name};"):
        read_safely(path)


def test_no_attribute_takes_the_place_of_a_method(folder: Path) -> None:
    data = read_safely(folder / "PPO") | {"predict": torch.nn.ReLU}
    with pytest.raises(UnsafeModelError, match="model.zip: attribute 'predict' would replace a method of PPO"):
        check_methods_stay("model.zip", data, PPO)


@pytest.mark.parametrize("name", SLIMMABLE)
def test_the_environment_of_the_training_fits(folder: Path, name: str) -> None:
    environment = gymnasium.make("Pendulum-v1" if name == "SAC" else "CartPole-v1")
    data = read_safely(folder / name)
    check_environment_fits("model.zip", data, environment)
    check_environment_fits("model.zip", data, DummyVecEnv([lambda: environment]))


def test_another_environment_is_refused_with_both_spaces(folder: Path) -> None:
    data = read_safely(folder / "PPO")
    message = (
        r"model.zip: the model was trained in another environment: its observations are Box\(.*\(4,\), float32\), "
        r"and those of this environment Box\(.*\(3,\), float32\)"
    )
    with pytest.raises(ValueError, match=message):
        check_environment_fits("model.zip", data, gymnasium.make("Pendulum-v1"))
    data["action_space"] = spaces.Discrete(3)
    message = r"its actions are Discrete\(3\), and those of this environment Discrete\(2\)"
    with pytest.raises(ValueError, match=message):
        check_environment_fits("model.zip", data, gymnasium.make("CartPole-v1"))


def test_what_is_no_environment_is_refused_by_its_kind(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"env='CartPole-v1' is a str, and no environment, such as gymnasium\.make"):
        check_environment_fits("model.zip", read_safely(folder / "PPO"), "CartPole-v1")


class Seen(gymnasium.Env[Any, Any]):
    """Only the spaces of an environment."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, spaces.Discrete(2)


def test_images_fit_with_their_channels_first_or_last() -> None:
    last, first = spaces.Box(0, 255, (64, 64, 3), np.uint8), spaces.Box(0, 255, (3, 64, 64), np.uint8)
    check_environment_fits("m", {"observation_space": first, "action_space": spaces.Discrete(2)}, Seen(last))
    check_environment_fits("m", {"observation_space": first, "action_space": spaces.Discrete(2)}, Seen(first))
    saved_space = spaces.Dict({"image": first, "kind": spaces.Discrete(2)})
    here = spaces.Dict({"image": last, "kind": spaces.Discrete(2)})
    check_environment_fits("m", {"observation_space": saved_space, "action_space": spaces.Discrete(2)}, Seen(here))
