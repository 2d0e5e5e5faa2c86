"""Slimmable policies for stable-baselines3: SlimPPO in place of PPO, and one trained policy acts at any width."""

from slimlib.rl.algorithm import SlimAlgorithm
from slimlib.rl.dqn import SlimDQN
from slimlib.rl.on_policy import SlimA2C, SlimPPO
from slimlib.rl.sac import SlimSAC

__all__ = ["SlimA2C", "SlimAlgorithm", "SlimDQN", "SlimPPO", "SlimSAC"]
