"""MobileNet v1: depthwise convolutions, each followed by a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from slimlib.models.channels import Outputs, Slims, scaled
from slimlib.models.classifier import Classifier, conv, depthwise, strides

DIVISOR = 8
CHANNELS = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
STRIDES = (2, 1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1)


class Separable(nn.Module):
    """Filter each channel, then mix them."""

    def __init__(self, inputs: Outputs, outputs: Outputs, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *depthwise(inputs, 3, stride), nn.ReLU6(inplace=True),
            *conv(inputs.channels, outputs, 1), nn.ReLU6(inplace=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, H', W']
        y: Tensor = self.body(x)
        return y


def slims(multiplier: float) -> list[Slims]:
    """Channels of the full network, layer by layer."""
    return [Slims(scaled(channels, multiplier)) for channels in CHANNELS]


def network(outputs: Sequence[Outputs], *, classes: int, size: int) -> Classifier:
    """The network with these channels. Source: Howard et al. 2017 (MobileNets), table 1; ReLU6 as in Yu et al. 2019."""
    steps = strides(size, STRIDES)
    features: list[nn.Module] = [nn.Sequential(*conv(3, outputs[0], 3, steps[0]), nn.ReLU6(inplace=True))]
    for inputs, own, stride in zip(outputs, outputs[1:], steps[1:], strict=False):
        features.append(Separable(inputs, own, stride))
    return Classifier(nn.Sequential(*features), outputs[-1].channels, classes)
