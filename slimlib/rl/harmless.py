"""What a model of stable-baselines3 may hold: the classes that its pickles may name, make and fill.

None of them does anything but hold values when it is made or filled. What numpy would read without checking, such as
flags of a dtype that turn numbers into addresses of objects, is read by functions of our own.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3.dqn.policies as dqn
import stable_baselines3.sac.policies as sac
import torch
from gymnasium import spaces
from stable_baselines3.common import buffers, noise, policies, torch_layers, utils
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.her import GoalSelectionStrategy, HerReplayBuffer
from torch.nn.modules import activation

from slimlib.core.width import Switches, WidthPlan, WidthRange

PLAIN = "biufcSU"
"""Kinds of a numpy dtype: numbers, booleans and text; neither objects nor fields."""


class Refused(Exception):
    """What a pickle holds and may not.

    Args:
        what: "refers to 'os.system'", for example.
        name: that could be allowed; None where there is nothing to allow.
    """

    def __init__(self, what: str, name: str | None = None) -> None:
        super().__init__(what)
        self.name = name


# numpy


def _dtype(code: str, align: bool = False, copy: bool = False) -> np.dtype[Any]:
    made = np.dtype(code) if isinstance(code, str) else None
    if made is None or made.kind not in PLAIN:
        raise Refused(f"holds an array of {str(code)[:40]!r}, which are neither numbers nor text")
    return made


def _check_dtype(made: np.dtype[Any], state: Any) -> None:
    """Nothing is set: what is set in ordinary numbers is what they have."""
    if state != made.__reduce__()[2]:
        raise Refused(f"holds an array of {made} in another form than this machine's")


def _array(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    flat = np.frombuffer(*_numbers(content, dtype))
    return flat.reshape(shape, order=order) if axes is None else flat.reshape(shape).transpose(axes)


def _number(dtype: Any, content: Any) -> Any:
    return np.frombuffer(*_numbers(content, dtype))[0]


def _empty_array(*_: Any) -> np.ndarray:
    return np.empty(0, np.uint8)


def _fill_array(made: np.ndarray, state: Any) -> None:
    version, shape, dtype, in_fortran_order, content = state
    content, dtype = _numbers(content, dtype)
    made.__setstate__((version, shape, dtype, in_fortran_order, bytes(content)))


def _numbers(content: Any, dtype: Any) -> tuple[bytes | bytearray, np.dtype[Any]]:
    """Both, if they are what their names say: numpy would also share the memory of other objects."""
    if not isinstance(content, bytes | bytearray) or not isinstance(dtype, np.dtype):
        raise Refused("holds an array that is not made of bytes")
    return content, dtype


def _bit_generator(kind: Any) -> np.random.PCG64:
    if kind is not np.random.PCG64 and kind != "PCG64":
        raise Refused("holds another random generator than the PCG64 of gymnasium")
    return np.random.PCG64(0)


def _generator(bits: Any, *_: Any) -> np.random.Generator:
    return np.random.Generator(bits if isinstance(bits, np.random.PCG64) else _bit_generator(bits))


def _fill_bits(made: Any, state: Any) -> None:
    made.state = state[0] if isinstance(state, tuple) else state


def _fill_generator(made: np.random.Generator, state: Any) -> None:
    _fill_bits(made.bit_generator, state)


class _Seed:
    """What a generator was seeded with; its state is what counts, and so this is left out."""


def _seed(*_: Any) -> _Seed:
    return _Seed()


def _leave_out(made: _Seed, state: Any) -> None:
    del made, state


# The lists

OPTIMIZERS = [getattr(torch.optim, name) for name in dir(torch.optim)]

NAMED: tuple[type, ...] = (
    *(getattr(activation, name) for name in activation.__all__),
    *(each for each in OPTIMIZERS if isinstance(each, type) and issubclass(each, torch.optim.Optimizer)),
    RMSpropTFLike,
    *(policies.ActorCriticPolicy, policies.ActorCriticCnnPolicy, policies.MultiInputActorCriticPolicy),
    *(dqn.DQNPolicy, dqn.CnnPolicy, dqn.MultiInputPolicy, sac.SACPolicy, sac.CnnPolicy, sac.MultiInputPolicy),
    *(torch_layers.FlattenExtractor, torch_layers.NatureCNN, torch_layers.CombinedExtractor),
    *(HerReplayBuffer, np.ndarray, np.random.PCG64, _Seed),
    *(bool, int, float, str),
    *(np.dtype(code).type for code in np.typecodes["All"] if np.dtype(code).kind in PLAIN),
)
"""What a pickle may name, and nothing else: stable-baselines3 makes things of these."""

CALLED: tuple[type, ...] = (
    *(deque, OrderedDict, defaultdict, set, frozenset, slice, range, complex, bytearray, type(Path())),
    *(TrainFreq, TrainFrequencyUnit, GoalSelectionStrategy, torch.device, torch.Size),
)
"""What it may make with any arguments."""

FILLED: tuple[type, ...] = (
    *(spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete, spaces.Dict, spaces.Tuple),
    *(spaces.Text, spaces.Graph, spaces.Sequence, spaces.OneOf),
    *(utils.FloatSchedule, utils.ConstantSchedule, utils.LinearSchedule),
    *(noise.NormalActionNoise, noise.OrnsteinUhlenbeckActionNoise, noise.VectorizedActionNoise),
    *(buffers.RolloutBuffer, buffers.DictRolloutBuffer, buffers.ReplayBuffer, buffers.DictReplayBuffer),
    *(buffers.NStepReplayBuffer, WidthRange, Switches, WidthPlan),
)
"""What it may make empty, without the constructor, and then set the attributes of."""

CALLED_AS: Mapping[tuple[str, str], Any] = {
    ("numpy", "dtype"): _dtype,
    ("numpy.random._pickle", "__generator_ctor"): _generator,
    ("numpy.random._pickle", "__bit_generator_ctor"): _bit_generator,
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): _seed,
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _number for core in ("core", "_core")},
}
"""What is called in place of the function of this module and name."""

FILLED_AS: Mapping[type, Callable[[Any, Any], None]] = {
    np.dtype: _check_dtype,
    np.ndarray: _fill_array,
    np.random.PCG64: _fill_bits,
    np.random.Generator: _fill_generator,
    _Seed: _leave_out,
}
"""How instances of these are filled."""

NAMES: Mapping[tuple[str, str], Any] = {
    **{(each.__module__, each.__qualname__): each for each in (*NAMED, *CALLED, *FILLED)},
    **{("torch", name): each for name, each in vars(torch).items() if isinstance(each, torch.dtype)},
    ("numpy.random.bit_generator", "SeedSequence"): _Seed,
    **CALLED_AS,
}
"""(module, name) -> what a pickle gets that asks for it."""
