"""Small networks, batches and scores for the tests of search."""

from __future__ import annotations

import copy
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from tests.networks import MLP, MobileNet

IMAGES = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 10, (24,), generator=torch.Generator().manual_seed(1))
CALIBRATION = [IMAGES[:8], IMAGES[8:16]]


def chain() -> nn.Module:
    """A slimmable network with BatchNorm whose modules run one after another."""
    return copy.deepcopy(_chain())


@cache
def _chain() -> nn.Module:
    torch.manual_seed(0)
    return slim.convert(MobileNet(), IMAGES[:2])


def loss(net: nn.Module) -> float:
    """Of held-out images, in two batches."""
    return sum(float(F.cross_entropy(net(IMAGES[i : i + 4]), LABELS[i : i + 4])) for i in (16, 20))


def four_groups() -> nn.Module:
    """Four groups of 32 channels, without BatchNorm."""
    return copy.deepcopy(_four_groups())


@cache
def _four_groups() -> nn.Module:
    torch.manual_seed(0)
    return slim.convert(MLP((8, 32, 32, 32, 32, 4)), torch.zeros(2, 8))


def channels(net: nn.Module) -> Tensor:
    return torch.tensor(net.slim.channels, dtype=torch.double)
