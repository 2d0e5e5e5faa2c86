"""Reading a model of stable-baselines3 that somebody else made: nothing in the file is run.

Such a file is a zip: weights, which torch reads as weights only, and "data", the attributes of the model as JSON.
Attributes that JSON cannot hold are pickles in it, which stable-baselines3 would run.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage

from slimlib.core.unpickling import Allowed, Refused, unpickle
from slimlib.rl.allowed_classes import MODEL, own_allowed
from slimlib.rl.contrib import algorithm_of, refusal

File = str | Path | io.BufferedIOBase
PICKLED = ":serialized:"
COMPUTED = ("lr_schedule", "exploration_schedule")
"""What `load` computes anew from the other attributes; older versions save it as code."""
SCHEDULED = ("learning_rate", "clip_range", "clip_range_vf")
SCHEDULES = (
    ". Such a schedule is given anew as an argument of load; a LinearSchedule of stable_baselines3.common.utils, in "
    "place of a function, is loaded as it is"
)
MARKS = {
    "TRPO": {"cg_max_steps"},
    "RecurrentPPO": {"_last_lstm_states"},
    "TD3 or DDPG": {"target_policy_noise"},
    "TQC": {"top_quantiles_to_drop_per_net"},
    "QRDQN": {"n_quantiles"},
    "CrossQ": {"policy_delay"},
    "PPO": {"clip_range", "n_epochs"},
    "A2C": {"gae_lambda", "normalize_advantage"},
    "DQN": {"exploration_fraction"},
    "SAC": {"target_entropy", "ent_coef"},
}
"""Attributes by which an algorithm is known, if those before it are not there."""
SLIMMABLE = ("PPO", "A2C", "DQN", "SAC")


class UnsafeModelError(ValueError):
    """A model holds or refers to something that is not known to be harmless; nothing of it was run."""


def read_safely(
    path: File, allow: Sequence[type | Callable[..., Any]] = (), *, custom_objects: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The attributes of a saved model. Given to `load` as `custom_objects`, they leave it nothing to unpickle.

    Args:
        path: the file, with or without its ending ".zip", or an open one.
        allow: classes and functions of your own that the file may refer to. It may make and fill instances of the
            classes; it cannot call the functions.
        custom_objects: attribute -> value that is taken in place of the one in the file, which is not unpickled.

    Raises:
        UnsafeModelError: an attribute refers to something else, or holds code.
        ValueError: the file is not there, is damaged, or is no model of PPO, A2C, DQN or SAC; or `allow` is no list.
    """
    allowed = own_allowed(MODEL, allow)
    data = attributes(path)
    _saved_by(path, data)
    replaced = dict.fromkeys(COMPUTED) | dict(custom_objects or {})
    return {
        name: replaced[name] if name in replaced else _value(path, name, stored, allowed)
        for name, stored in data.items()
    }


def check_algorithm(path: File, data: Mapping[str, Any], expected: type[BaseAlgorithm]) -> None:
    """Raise ValueError unless a model with these attributes was saved by this algorithm, or its slimmable form.

    Args:
        path: the file, for the message.
        data: its attributes.
        expected: PPO, A2C, DQN or SAC of stable-baselines3.
    """
    found = _saved_by(path, data)
    if found != expected.__name__:
        raise ValueError(
            f"{shown(path)} was saved by {found}, and cannot be loaded by Slim{expected.__name__}; use Slim{found}.load"
        )


def check_methods_stay(path: File, data: Mapping[str, Any], expected: type[BaseAlgorithm]) -> None:
    """Raise UnsafeModelError if an attribute has the name of a method, whose place it would take.

    Args:
        path, data, expected: see `check_algorithm`.
    """
    for name in data:
        if callable(getattr(expected, name, None)):
            algorithm = expected.__name__
            raise UnsafeModelError(
                f"{shown(path)}: attribute {name!r} would replace a method of {algorithm}; no {algorithm} saves such a "
                "model"
            )


def check_environment_fits(path: File, data: Mapping[str, Any], env: Any) -> None:
    """Raise ValueError unless the environment has the observations and actions of the one of the training.

    Args:
        path: the file, for the message.
        data: its attributes.
        env: of gymnasium, or a vectorised one of stable-baselines3; images may still have their channels last.
    """
    if not isinstance(env, gymnasium.Env | VecEnv):
        raise ValueError(f"env={env!r} is a {type(env).__name__}, and no environment, such as gymnasium.make returns")
    for name, what in {"observation_space": "observations", "action_space": "actions"}.items():
        saved, here = data.get(name), getattr(env, name)
        if saved not in (here, _channels_first(here)):
            raise ValueError(
                f"{shown(path)}: the model was trained in another environment: its {what} are {saved}, and those "
                f"of this environment {here}"
            )


def attributes(path: File) -> dict[str, Any]:
    """The JSON of a model, pickles as they are.

    Raises:
        ValueError: the file is not there, is damaged, or is no model.
    """
    where, found = shown(path), _find(path)
    try:
        with zipfile.ZipFile(found) as archive:
            names, broken = archive.namelist(), archive.testzip()
            begins = min((member.header_offset for member in archive.infolist()), default=0)
            content = archive.read("data") if "data" in names else b""
    except OSError:
        raise
    except Exception as error:  # a damaged zip fails wherever it likes
        raise ValueError(f"{where}: {_how_broken(found)} ({error})") from None
    if begins:  # what is found is the zip within the zip that torch wrote
        raise ValueError(f"{where}: damaged or cut off")
    if not content or "policy.pth" not in names:
        alone = any(name.endswith("/data.pkl") for name in names)
        advice = "; a policy that was saved alone is read by slimlib.rl.load_policy" if alone else ""
        raise ValueError(
            f"{where}: no model of stable-baselines3; those have 'data' and 'policy.pth' in their zip{advice}"
        )
    if broken:
        raise ValueError(f"{where}: damaged, '{broken}' in it is not what was saved")
    try:
        data = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: damaged, 'data' in it is no JSON ({error})") from None
    if not isinstance(data, dict):
        raise ValueError(f"{where}: damaged, 'data' in it is a {type(data).__name__} and no attributes of a model")
    return data


def _find(path: File) -> Any:
    """Where stable-baselines3 looks: at the path, then with the ending ".zip"."""
    if not isinstance(path, str | Path):
        return path
    for candidate in (Path(path), Path(f"{path}.zip")):
        if candidate.is_file():
            return candidate
    raise ValueError(f"{path}: no such file" + ("" if str(path).endswith(".zip") else f", nor {path}.zip"))


def _how_broken(found: Any) -> str:
    if not isinstance(found, Path):
        return "cannot be read as a zip"
    with found.open("rb") as file:
        starts_as_zip = file.read(4) == b"PK\x03\x04"
    return "damaged or cut off" if starts_as_zip else "no zip, and so no model of stable-baselines3"


def _value(path: File, name: str, stored: Any, allowed: Allowed) -> Any:
    if not isinstance(stored, dict) or PICKLED not in stored:
        return stored
    replace = f"custom_objects={{{name!r}: ...}} to replace the value"
    try:
        return unpickle(base64.b64decode(stored[PICKLED]), allowed)
    except Refused as refused:
        yours = f"allow=[{refused.name}] if you know it, or " if refused.name else ""
        raise UnsafeModelError(
            f"{shown(path)}: {name!r} {refused}, and nothing of it was run. Pass {yours}{replace}, or trusted=True "
            f"if you trust whoever made the file{SCHEDULES if name in SCHEDULED else ''}"
        ) from None
    except Exception as error:  # a damaged pickle fails wherever it likes
        raise ValueError(
            f"{shown(path)}: {name!r} cannot be read ({type(error).__name__}: {str(error)[:200]}). Pass {replace}"
        ) from None


def _saved_by(path: File, data: Mapping[str, Any]) -> str:
    """PPO, A2C, DQN or SAC."""
    policy_class = data.get("policy_class")
    module = policy_class.get("__module__", "") if isinstance(policy_class, dict) else ""
    if algorithm := algorithm_of(str(module)):
        raise ValueError(f"{shown(path)} was saved by {algorithm}; {refusal(algorithm)}")
    found = next((name for name, marks in MARKS.items() if marks <= data.keys()), "another algorithm")
    if found not in SLIMMABLE:
        raise ValueError(f"{shown(path)} was saved by {found}; only models of {', '.join(SLIMMABLE)} can be slimmable")
    return found


def _channels_first(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space as stable-baselines3 saves it."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: _channels_first(part) for name, part in space.spaces.items()})
    if isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


def shown(path: File) -> str:
    return str(path if isinstance(path, str | Path) else getattr(path, "name", "the file"))
