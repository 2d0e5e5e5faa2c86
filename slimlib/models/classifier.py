"""What the classifiers here share: a convolution with its norm, the frame around the features, first weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from slimlib.models.channels import Outputs

# Inputs that a network can be made for -> how many of its first downsamplings are left out.
LEFT_OUT = {224: 0, 64: 1, 32: 2}


class Classifier(nn.Module):
    """Features, their mean over positions, and a linear layer.

    Modules are named as in the checkpoints of Yu et al., so that those load by name.

    Attributes:
        channel_rule: arguments for `slimlib.convert`, by which it rounds the channels as published.
        gate_before: name of the module before which a gate may choose a width for each image (see `slimlib.Gated.at`).
        layers: names of the layers that make channels, in the order of the published plans.
    """

    channel_rule: dict[str, Any]
    layers: tuple[str, ...]

    def __init__(self, features: nn.Sequential, channels: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.gate_before = f"features.{len(features) // 2}"
        self.classifier = nn.Sequential(nn.Linear(channels, classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, classes]
        scores: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return scores


def conv(inputs: int, outputs: Outputs, kernel: int, stride: int = 1, *, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size (but for its stride), and its norm."""
    layer = nn.Conv2d(inputs, outputs.channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, outputs.norm()]


def depthwise(channels: Outputs, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution that filters each channel by itself, and its norm."""
    return conv(channels.channels, channels, kernel, stride, groups=channels.channels)


def strides(size: int, published: tuple[int, ...]) -> list[int]:
    """The published strides of a network's parts, without the downsamplings that inputs of `size` leave out."""
    left_out, kept = LEFT_OUT[size], []
    for stride in published:
        drop = stride > 1 and left_out > 0
        left_out -= drop
        kept.append(1 if drop else stride)
    return kept


def initialise(net: nn.Module) -> None:
    """First weights. Source: He et al. 2015 (fan out) for convolutions; Howard et al. 2017 for the classifier."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
