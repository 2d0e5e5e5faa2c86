"""The gate that looks at features and chooses a width for each sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimlib.core.width import is_number, is_whole


class SlimmingGate(nn.Module):
    """Pooled features, a shared reduction, and two heads: a factor for each channel, and a score for each width.

    The factors are twice a sigmoid and begin at 1, so that a gate can be put into a trained network without a change
    of what it computes. (As published they are a sigmoid that is trained together with the supernet; the networks
    `ds_mobilenet` and `ds_resnet50` have that in every block.)

    Args:
        channels: of the features.
        choices: how many widths there are to choose from.
        reduction: hidden units over channels.
        attention: whether there are factors.

    Source: Li et al. 2021 (DS-Net), sec. 3.3, double-headed dynamic gate.
    """

    def __init__(self, channels: int, choices: int, *, reduction: float = 0.25, attention: bool = True) -> None:
        super().__init__()
        numbers = is_whole(channels, 1) and is_whole(choices, 2) and is_number(reduction)
        if not numbers or not 0 < reduction <= 4:
            raise ValueError(
                f"SlimmingGate({channels!r}, {choices!r}, reduction={reduction!r}): needs at least one channel and two "
                "choices, and a reduction above 0, for example SlimmingGate(256, 4, reduction=0.25)"
            )
        hidden = max(1, round(channels * reduction))
        self.channels, self.choices = channels, choices
        self.reduce = nn.Linear(channels, hidden)
        self.scores = nn.Linear(hidden, choices, bias=False)
        self.factors = nn.Linear(hidden, channels) if attention else None
        if self.factors is not None:
            nn.init.zeros_(self.factors.weight)
            nn.init.zeros_(self.factors.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, channels, ...] -> features with their factors, and scores [N, choices]."""
        if features.dim() < 2 or features.shape[1] != self.channels:
            raise ValueError(
                f"the gate got features {list(features.shape)} and expects [N, {self.channels}, ...], the channels of "
                "the stem at its width"
            )
        hidden = F.relu(self.reduce(features.flatten(2).mean(2) if features.dim() > 2 else features))
        if self.factors is not None:
            factors = 2 * torch.sigmoid(self.factors(hidden))  # [N, channels]
            features = features * factors.reshape(*factors.shape, *[1] * (features.dim() - 2))
        return features, self.scores(hidden)


def one_hot_choice(scores: Tensor, *, temperature: float = 1.0) -> Tensor:
    """A random choice by the scores, [N, choices] -> one-hot of the same shape, with the gradient of a softmax.

    Source: Jang et al. 2017 (straight-through Gumbel softmax).
    """
    return F.gumbel_softmax(scores, tau=temperature, hard=True)
