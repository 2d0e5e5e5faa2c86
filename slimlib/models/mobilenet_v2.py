"""MobileNet v2: inverted residuals, which widen, filter each channel, and narrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from slimlib.models.channels import Outputs, Slims, scaled
from slimlib.models.classifier import Classifier, conv, depthwise, strides

DIVISOR = 8
STEM, LAST = 32, 1280


@dataclass(frozen=True)
class Stage:
    """Blocks of the same output channels; all but the first add their input."""

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int = 3


STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow.

    hidden: the channels between; None: those of the input, which is then not widened.

    Source: Sandler et al. 2018 (MobileNetV2), sec. 3.3.
    """

    def __init__(
        self, inputs: Outputs, hidden: Outputs | None, outputs: Outputs, *, kernel: int, stride: int, adds: bool
    ) -> None:
        super().__init__()
        widen = [*conv(inputs.channels, hidden, 1), nn.ReLU6(inplace=True)] if hidden else []
        between = hidden or inputs
        self.body = nn.Sequential(
            *widen,
            *depthwise(between, kernel, stride), nn.ReLU6(inplace=True),
            *conv(between.channels, outputs, 1),
        )  # fmt: skip
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, H', W']
        y: Tensor = self.body(x)
        return x + y if self.adds else y


def slims(multiplier: float) -> list[Slims]:
    """Channels of the full network, layer by layer; the last convolution stays full.

    Source: Yu & Huang 2019 (US-Nets), whose narrow networks keep the 1280 channels.
    """
    last = Slims(scaled(LAST, multiplier), stays=True)
    return [*inverted_residuals(STEM, STAGES, multiplier), last]


def inverted_residuals(stem: int, stages: Sequence[Stage], multiplier: float) -> Iterator[Slims]:
    """Channels of the stem and of the blocks, each hidden layer before the output of its block."""
    inputs = scaled(stem, multiplier)
    yield Slims(inputs)
    for stage in stages:
        own = scaled(stage.channels, multiplier)
        for _ in range(stage.repeats):
            if stage.expansion > 1:
                yield Slims(stage.expansion * inputs, stage.expansion)
            yield Slims(own)
            inputs = own


def network(outputs: Sequence[Outputs], *, classes: int, size: int) -> Classifier:
    """The network with these channels. Source: Sandler et al. 2018 (MobileNetV2), table 2."""
    return inverted_residual_network(STAGES, outputs, classes=classes, size=size)


def inverted_residual_network(
    stages: Sequence[Stage], outputs: Sequence[Outputs], *, classes: int, size: int
) -> Classifier:
    """Stem, stages of inverted residuals, a last 1x1 convolution, and the classifier.

    Raises:
        ValueError: a block adds its input to an output of other channels.
    """
    steps = strides(size, (2, *(stage.stride for stage in stages)))
    left = iter(outputs)
    inputs = next(left)
    features: list[nn.Module] = [nn.Sequential(*conv(3, inputs, 3, steps[0]), nn.ReLU6(inplace=True))]
    for stage, first_stride in zip(stages, steps[1:], strict=True):
        for repeat in range(stage.repeats):
            hidden = next(left) if stage.expansion > 1 else None
            own, adds = next(left), repeat > 0
            if adds and own != inputs:
                raise ValueError(
                    f"block features.{len(features)} adds its input of {inputs.channels} channels "
                    f"to its output of {own.channels}; they must be equal"
                )
            stride = 1 if adds else first_stride
            features.append(InvertedResidual(inputs, hidden, own, kernel=stage.kernel, stride=stride, adds=adds))
            inputs = own
    last = next(left)
    features.append(nn.Sequential(*conv(inputs.channels, last, 1), nn.ReLU6(inplace=True)))
    return Classifier(nn.Sequential(*features), last.channels, classes)
