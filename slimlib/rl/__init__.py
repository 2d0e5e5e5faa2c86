"""Slimmable policies for stable-baselines3: SlimPPO in place of PPO, and one trained policy acts at any width."""

from typing import Any

from slimlib.rl.algorithm import SlimAlgorithm
from slimlib.rl.callbacks import SlimEvalCallback
from slimlib.rl.contrib import NEEDED, refusal
from slimlib.rl.dqn import SlimDQN
from slimlib.rl.on_policy import SlimA2C, SlimPPO
from slimlib.rl.policies import load_policy
from slimlib.rl.sac import SlimSAC

__all__ = ["SlimA2C", "SlimAlgorithm", "SlimDQN", "SlimEvalCallback", "SlimPPO", "SlimSAC", "load_policy"]


def __getattr__(name: str) -> Any:
    algorithm = name.removeprefix("Slim")
    if name.startswith("Slim") and algorithm in NEEDED:
        raise ImportError(refusal(algorithm))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
