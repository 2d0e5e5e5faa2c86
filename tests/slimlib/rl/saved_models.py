"""Models that stable-baselines3 saved, as they are and with something else in them."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"PPO": PPO, "A2C": A2C, "DQN": DQN, "SAC": SAC, "TD3": TD3}
SLIMMABLE = ("PPO", "A2C", "DQN", "SAC")
NOISE = NormalActionNoise(np.zeros(1), np.ones(1))
OPTIONS: dict[str, dict[str, Any]] = {
    "PPO": {"n_steps": 16, "batch_size": 8, "n_epochs": 1, "learning_rate": LinearSchedule(1e-3, 0.0, 1.0)},
    "A2C": {},
    "DQN": {"learning_starts": 4, "buffer_size": 50},
    "SAC": {"learning_starts": 4, "buffer_size": 50, "train_freq": (8, "step"), "action_noise": NOISE},
    "TD3": {"buffer_size": 10},
}


def made(name: str) -> BaseAlgorithm:
    environment = "Pendulum-v1" if name in ("SAC", "TD3") else "CartPole-v1"
    kwargs = {"net_arch": [8], "activation_fn": torch.nn.ELU}
    return ALGORITHMS[name]("MlpPolicy", environment, policy_kwargs=kwargs, seed=1, **OPTIONS[name])


def changed(path: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a model, with another "data"."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                data = json.loads(content)
                change(data)
                content = json.dumps(data).encode()
            new.writestr(name, content)
    return target


def holding(folder: Path, target: Path, key: str, content: bytes) -> Path:
    """A model of PPO with this pickle as one of its attributes."""
    pickled = {":type:": "something", ":serialized:": base64.b64encode(content).decode()}
    return changed(folder / "PPO.zip", target, lambda data: data.update({key: pickled}))
