"""Pickles that would run something, and the instructions to write them with."""

from __future__ import annotations

import functools
import logging
import operator
import os
import pickle
import subprocess
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common import save_util
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import FloatSchedule


class Runs:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Filled(Runs):
    """Pickled as a call, and then the setting of what is inside."""

    def __init__(self, function: Any, *arguments: Any, state: Any) -> None:
        self.call = function, arguments, state


def named(kind: Any) -> bytes:
    """The instruction that names a class or function."""
    return f"c{kind.__module__}\n{kind.__qualname__}\n".encode()


def put(value: Any) -> bytes:
    """The instructions that make a value."""
    return pickle.dumps(value, 3)[2:-1]


def filled(kind: type, state: Any) -> bytes:
    """A pickle of an instance that is made without arguments, and then filled."""
    return b"\x80\x03" + named(kind) + b")\x81" + put(state) + b"b."


def attacks(marker: str) -> dict[str, bytes]:
    """Pickles that make a folder of this name, or open the way to."""
    mkdir = f"__import__('os').mkdir({marker!r})"
    objects: dict[str, Any] = {
        "os": Runs(os.mkdir, marker),
        "system": Runs(os.system, f"mkdir {marker}"),
        "exec": Runs(exec, mkdir),
        "eval": Runs(eval, mkdir),
        "open": Runs(open, marker, "w"),
        "popen": Runs(subprocess.Popen, ["mkdir", marker]),
        "partial": Runs(functools.partial, os.mkdir, marker),
        "attrgetter": Runs(operator.attrgetter, "__class__.__base__.__subclasses__"),
        "methodcaller": Runs(operator.methodcaller, "mkdir", marker),
        "reduce": Runs(functools.reduce, getattr, ["__class__"], 1),
        "getattr": Runs(getattr, spaces.Box, "__init__"),
        "log file": Runs(logging.FileHandler, marker),
        "mapped file": Runs(np.memmap, marker, "uint8", "w+", 0, (1,)),
        "numpy file": Runs(np.load, marker, None, True),
        "torch file": Runs(torch.load, marker),
        "torch bytes": Runs(torch.storage._load_from_bytes, b""),
        "pickle in a pickle": Runs(pickle.loads, pickle.dumps(Runs(os.mkdir, marker))),
        "environment": Runs(gymnasium.make, "CartPole-v1"),
        "file of stable-baselines3": Runs(save_util.load_from_pkl, marker),
        "optimizer that is made": Runs(torch.optim.SGD, [], 0.1),
        "deep": {"net_arch": [1, (Runs(os.mkdir, marker),)]},
        "object array": Filled(np.dtype, "O8", False, True, state=(3, "|", None, None, None, -1, -1, 0)),
        "fields": Runs(np.dtype, [("a", "O")]),
        "flags": Filled(np.dtype, "f8", False, True, state=(3, "<", None, None, None, -1, -1, 63)),
        "generator": Runs(np.random._pickle.__generator_ctor, "MT19937", torch.nn.ReLU),
    }
    written = {name: pickle.dumps(value, 5) for name, value in objects.items()}
    policy, from_bytes = named(ActorCriticPolicy), named(np._core.numeric._frombuffer)
    return written | {
        "lambda": cloudpickle.dumps(lambda: os.mkdir(marker)),
        "class of a script": cloudpickle.dumps(type("Own", (), {"__init__": lambda self: None})),
        "old instruction": f"(S'{marker}'\nios\nmkdir\n.".encode(),
        "old instruction for what is listed": b"(i" + named(torch.nn.ReLU)[1:] + b".",
        "older instruction for what is listed": b"(" + named(torch.nn.ReLU) + b"o.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"P1\n.",
        "activation that is made": named(torch.nn.ReLU) + b")\x81.",
        "activation that is called": named(torch.nn.ReLU) + b")R.",
        "space with arguments": named(spaces.Discrete) + b"(I3\nt\x81.",
        "keyword arguments": named(spaces.Discrete) + b"(I3\nt}\x92.",
        "call of a schedule": filled(FloatSchedule, {"value_schedule": torch.nn.ReLU})[:-1] + b"(F1\ntR.",
        "method": filled(FloatSchedule, {"__call__": torch.nn.ReLU}),
        "state method": filled(FloatSchedule, {"__setstate__": torch.nn.ReLU}),
        "method of a space": filled(spaces.Discrete, {"sample": torch.nn.ReLU}),
        "slots": filled(FloatSchedule, (None, {"__class__": spaces.Discrete})),
        "append method": filled(FloatSchedule, {"append": torch.nn.ReLU})[:-1] + b"Na.",
        "extend method": filled(FloatSchedule, {"extend": torch.nn.ReLU})[:-1] + b"(Ne.",
        "add method": b"\x80\x04" + filled(FloatSchedule, {"add": torch.nn.ReLU})[2:-1] + b"(N\x90.",
        "method of a class": policy + b"(N}S'predict'\n" + named(torch.nn.ReLU) + b"stb.",
        "attribute of a class": policy + b"}S'predict'\nNsb.",
        "item of a class": policy + b"S'a'\nNs.",
        "items of a class": policy + b"(S'a'\nNu.",
        "shared memory": from_bytes + b"(" + put(np.zeros(4)) + put(np.dtype("f8")) + b"I4\nS'C'\ntR.",
        "type of a number": named(np._core.multiarray.scalar) + b"(S'O'\nS'12345678'\ntR.",
    }
