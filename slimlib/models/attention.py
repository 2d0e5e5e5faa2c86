"""Channel attention: a factor for each channel, from the means of all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

REDUCTION = 0.25


def reduced(channels: int) -> int:
    """Hidden units beside so many channels at full width; they stay at every width."""
    return max(1, round(REDUCTION * channels))


class ChannelAttention(nn.Module):
    """Multiplies each channel by a sigmoid of what all of them are on average.

    Source: Li et al. 2021 (DS-Net), sec. 3.3, the attention head that every block has; Hu et al. 2018.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # [N, channels, H, W] -> the same
        hidden = torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.expand(hidden))
