"""The networks that are timed, as plain torch modules whose channel numbers a width decides.

`build(name, width)` is the individually built dense network: its layers have the channel numbers
that `slimlib.convert` gives the full one at this width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from slimlib.width import round_channels
from tasks.sr.networks import wdsr_a

Channels = Callable[[int], int]  # of a layer at full width -> at the width that is built

V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
RESNET_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Classifier(nn.Module):
    """Features, their mean over positions, and a linear layer."""

    def __init__(self, features: nn.Sequential, channels: int, classes: int = 1000) -> None:
        super().__init__()
        self.features, self.classifier = features, nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, classes]
        scores: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return scores


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow. Source: Sandler et al. 2018 (MobileNetV2), sec. 3.3."""

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int, *, expands: bool, adds: bool) -> None:
        super().__init__()
        widen = [conv_bn(inputs, hidden, 1), nn.ReLU6(inplace=True)] if expands else []
        self.body = nn.Sequential(
            *widen, conv_bn(hidden, hidden, 3, stride, hidden), nn.ReLU6(inplace=True), conv_bn(hidden, outputs, 1)
        )
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, H', W']
        y: Tensor = self.body(x)
        return x + y if self.adds else y


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside a shortcut. Source: He et al. 2016 (ResNet), sec. 4.1; stride in the 3x3."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, *, projects: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(inputs, inner, 1), nn.ReLU(inplace=True),
            conv_bn(inner, inner, 3, stride), nn.ReLU(inplace=True),
            conv_bn(inner, outputs, 1),
        )  # fmt: skip
        self.shortcut = conv_bn(inputs, outputs, 1, stride) if projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, H', W']
        return torch.relu(self.body(x) + self.shortcut(x))


def mobilenet_v1(c: Channels) -> nn.Module:
    """Source: Howard et al. 2017, table 1."""
    numbers = (64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
    strides = (1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1)
    layers: list[nn.Module] = [conv_bn(3, c(32), 3, 2), nn.ReLU6(inplace=True)]
    inputs = c(32)
    for number, stride in zip(numbers, strides, strict=True):
        layers += [conv_bn(inputs, inputs, 3, stride, inputs), nn.ReLU6(inplace=True)]
        layers += [conv_bn(inputs, c(number), 1), nn.ReLU6(inplace=True)]
        inputs = c(number)
    return Classifier(nn.Sequential(*layers), inputs)


def mobilenet_v2(c: Channels) -> nn.Module:
    """Source: Sandler et al. 2018, table 2."""
    layers: list[nn.Module] = [conv_bn(3, c(32), 3, 2), nn.ReLU6(inplace=True)]
    full = 32
    for expansion, number, repeats, first_stride in V2_STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            adds, expands = stride == 1 and full == number, expansion > 1
            hidden = c(expansion * full)
            layers.append(InvertedResidual(c(full), hidden, c(number), stride, expands=expands, adds=adds))
            full = number
    layers += [conv_bn(c(full), c(1280), 1), nn.ReLU6(inplace=True)]
    return Classifier(nn.Sequential(*layers), c(1280))


def resnet50(c: Channels) -> nn.Module:
    """Source: He et al. 2016, table 1."""
    layers: list[nn.Module] = [conv_bn(3, c(64), 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    full = 64
    for inner, repeats, first_stride in RESNET_STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            layers.append(Bottleneck(c(full), c(inner), c(4 * inner), stride, projects=repeat == 0))
            full = 4 * inner
    return Classifier(nn.Sequential(*layers), c(full))


def wdsr(c: Channels) -> nn.Module:
    """WDSR-A x2 with 8 blocks, as `tasks.sr` has it."""
    return wdsr_a(features=c(32), hidden=c(128), blocks=8, scale=2)


NETWORKS: dict[str, Callable[[Channels], nn.Module]] = {
    "MobileNet v1": mobilenet_v1,
    "MobileNet v2": mobilenet_v2,
    "ResNet-50": resnet50,
    "WDSR-A": wdsr,
}


def build(name: str, width: float = 1.0) -> nn.Module:
    """The dense network of this name, individually built for a width."""
    return NETWORKS[name](partial(round_channels, width=width))
