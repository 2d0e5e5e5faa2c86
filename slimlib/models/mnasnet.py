"""MNasNet: the inverted residuals of MobileNet v2 with searched numbers and kernels, without squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Sequence

from slimlib.models.channels import Outputs, Slims, scaled
from slimlib.models.classifier import Classifier
from slimlib.models.mobilenet_v2 import LAST, STEM, Stage, inverted_residual_network, inverted_residuals

DIVISOR = 8
STAGES = (
    Stage(1, 16, 1, 1, kernel=3),
    Stage(3, 24, 3, 2, kernel=3),
    Stage(3, 40, 3, 2, kernel=5),
    Stage(6, 80, 3, 2, kernel=5),
    Stage(6, 96, 2, 1, kernel=3),
    Stage(6, 192, 4, 2, kernel=5),
    Stage(6, 320, 1, 1, kernel=3),
)


def slims(multiplier: float) -> list[Slims]:
    """Channels of the full network, layer by layer."""
    return [*inverted_residuals(STEM, STAGES, multiplier), Slims(scaled(LAST, multiplier))]


def network(outputs: Sequence[Outputs], *, classes: int, size: int) -> Classifier:
    """The network with these channels.

    Source: Tan et al. 2019 (MnasNet), the blocks of figure 7; ReLU6 as in Yu & Huang 2019 (AutoSlim).
    """
    return inverted_residual_network(STAGES, outputs, classes=classes, size=size)
