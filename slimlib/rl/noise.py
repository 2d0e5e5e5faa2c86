"""State-dependent noise (gSDE) at any width: drawn for the hidden units that are active."""

from __future__ import annotations

from typing import Any, TypeVar

from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import Tensor
from torch.distributions import Distribution

Self = TypeVar("Self", bound="NoiseOfAnyWidth")


class NoiseOfAnyWidth(StateDependentNoiseDistribution):
    """Noise that is drawn anew where another width acts than the one that it was drawn for.

    Source: Raffin et al. 2021 (Smooth Exploration for Robotic Reinforcement Learning).
    """

    log_std: Tensor | None = None

    def get_std(self, log_std: Tensor) -> Tensor:
        self.latent_sde_dim = len(log_std)  # without full_std, as many rows are made of its one column
        return super().get_std(log_std)

    def proba_distribution(self: Self, mean_actions: Tensor, log_std: Tensor, latent_sde: Tensor) -> Self:
        self.log_std = log_std
        made: Self = super().proba_distribution(mean_actions, log_std, latent_sde)
        return made

    def get_noise(self, latent_sde: Tensor) -> Tensor:
        if latent_sde.shape[-1] != self.exploration_mat.shape[0]:
            assert self.log_std is not None
            self.sample_weights(self.log_std, batch_size=len(self.exploration_matrices))
        return super().get_noise(latent_sde)


def forget_samples(distribution: Any) -> None:
    """Drop what an action distribution keeps of its last calls: it has a graph, and so cannot be copied."""
    for name, value in list(getattr(distribution, "__dict__", {}).items()):
        if isinstance(value, Tensor) and not value.is_leaf:
            setattr(distribution, name, value.detach())
        elif name == "distribution" or isinstance(value, Distribution):
            setattr(distribution, name, None)
