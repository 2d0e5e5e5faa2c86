"""Reinforcement learning: agents of stable-baselines3 in gymnasium's environments, scored by their returns."""
