"""DS-MobileNet: separable convolutions with channel attention, and 14 switches that differ from stage four on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from slimlib.core.setting import slimming_of
from slimlib.core.width import WidthPlan
from slimlib.models.attention import ChannelAttention, reduced
from slimlib.models.channels import Outputs, Slims, scaled
from slimlib.models.classifier import Classifier, conv, depthwise, strides

DIVISOR = 8
SWITCHES = 14
GATE_BEFORE = "features.6.body.4"  # the pointwise convolution of the fourth stage's first block


@dataclass(frozen=True)
class Stage:
    """Blocks of equal channels.

    Attributes:
        channels: of the narrowest switch and of the full network; step: between switches, 0 where all are narrow.
        stride: of the first block.
    """

    channels: tuple[int, int]
    blocks: int
    stride: int
    step: int = 0

    def at(self, switch: int) -> int:
        """Output channels of a switch."""
        return self.channels[0] + switch * self.step


STEM = Stage((16, 24), 1, 2)
STAGES = (
    Stage((32, 88), 1, 1),
    Stage((48, 168), 2, 2),
    Stage((96, 264), 2, 2),
    Stage((224, 640), 6, 2, step=32),
    Stage((736, 1152), 2, 2, step=32),
)


class Separable(nn.Module):
    """Filter each channel, weigh them, mix them; no shortcut."""

    def __init__(self, inputs: Outputs, hidden: Outputs, outputs: Outputs, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *depthwise(inputs, 3, stride), nn.SiLU(inplace=True), ChannelAttention(inputs.channels, hidden.channels),
            *conv(inputs.channels, outputs, 1), nn.SiLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, H', W']
        y: Tensor = self.body(x)
        return y


def slims(multiplier: float) -> list[Slims]:
    """Channels of the full network, layer by layer: those of attention before the pointwise convolution."""
    full = [scaled(channels, multiplier) for channels in _full()]
    table = [Slims(full[0])]
    for inputs, outputs in pairwise(full):
        table += [Slims(reduced(inputs), stays=True), Slims(inputs), Slims(outputs)]
    return table


def network(outputs: Sequence[Outputs], *, classes: int, size: int) -> Classifier:
    """The network with these channels.

    Source: Li et al. 2021 (DS-Net), sec. 4.1, and their published code (no shortcuts, swish).
    """
    published = [stage.stride if first else 1 for stage in STAGES for first in [True] + [False] * (stage.blocks - 1)]
    steps = strides(size, (STEM.stride, *published))
    features: list[nn.Module] = [nn.Sequential(*conv(3, outputs[0], 3, steps[0]), nn.SiLU(inplace=True))]
    inputs = outputs[0]
    for block, stride in enumerate(steps[1:]):
        hidden, _, own = outputs[1 + 3 * block : 4 + 3 * block]
        features.append(Separable(inputs, hidden, own, stride))
        inputs = own
    return Classifier(nn.Sequential(*features), inputs.channels, classes)


def ds_plans(net: nn.Module) -> list[WidthPlan]:
    """The 14 published switches of a slimmable `ds_mobilenet` as plans, from narrow to wide.

    All have the narrowest stem and first three stages, which come before the gate. The full network, whose stem is
    wider, too, is none of them: it is the largest in training. The published gate chooses among four that follow one
    another, from the first on.

    Raises:
        ValueError: the network is another, or thinner or wider than published.
    """
    slimming = slimming_of(net)
    full = _full()
    block_of = {f"features.{number}": number for number in range(len(full))}
    places = [
        [block_of.get(".".join(layer.split(".")[:2])) for layer in group.layers if layer.endswith((".4", "0.0"))]
        for group in slimming.layout.groups
    ]
    if any(not found or None in found for found in places) or slimming.layout.full != _channels(places, full):
        raise ValueError("these layers are not those of the published ds_mobilenet; build it with multiplier=1.0")
    return [WidthPlan(_channels(places, _of_blocks(switch))) for switch in range(SWITCHES)]


def _channels(places: Sequence[Sequence[int | None]], channels: Sequence[int]) -> tuple[int, ...]:
    """For each group the channels of the block that makes them."""
    return tuple(channels[min(number for number in found if number is not None)] for found in places)


def _full() -> list[int]:
    return [STEM.channels[1], *(stage.channels[1] for stage in STAGES for _ in range(stage.blocks))]


def _of_blocks(switch: int) -> list[int]:
    """Output channels of the stem and of each block."""
    return [STEM.at(switch), *(stage.at(switch) for stage in STAGES for _ in range(stage.blocks))]
