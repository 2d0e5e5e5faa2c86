"""ResNet-18, ResNet-50, and ResNet-8 for small images: blocks beside a shortcut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimlib.models.attention import ChannelAttention, reduced
from slimlib.models.channels import Outputs, Slims, scaled
from slimlib.models.classifier import Classifier, conv

DIVISOR = 1  # the published widths give whole numbers, which are not rounded further


@dataclass(frozen=True)
class Depth:
    """Blocks in each stage, what a block is, and the channels of the stages.

    expansion: output channels over the block's inner ones.
    kernels: of its convolutions; the stride is in the first 3x3.
    attention: whether channel attention stands before the last of them.
    stages: inner channels of the blocks of each; the stem has those of the first.
    """

    repeats: tuple[int, ...]
    expansion: int
    kernels: tuple[int, ...]
    stages: tuple[int, ...] = (64, 128, 256, 512)
    attention: bool = False


RESNET18 = Depth((2, 2, 2, 2), expansion=1, kernels=(3, 3))
RESNET50 = Depth((3, 4, 6, 3), expansion=4, kernels=(1, 3, 1))
DS_RESNET50 = Depth((3, 4, 6, 3), expansion=4, kernels=(1, 3, 1), attention=True)
"""Source: Li et al. 2021 (DS-Net), sec. 4.1. Their code has no ResNet: attention stands as in their other blocks."""
RESNET8 = Depth((1, 1, 1), expansion=1, kernels=(3, 3), stages=(16, 32, 64))
"""The smallest of the networks for CIFAR-10.

Source: He et al. 2016 (ResNet), sec. 4.2 with n = 1; shortcuts that change channels are projections (option B).
"""


class Residual(nn.Module):
    """Convolutions beside a shortcut, which is a projection where channels or size change.

    Source: He et al. 2016 (ResNet), sec. 4.1; stride in the 3x3.
    """

    def __init__(
        self,
        inputs: Outputs,
        body: Sequence[Outputs],
        kernels: Sequence[int],
        stride: int,
        projection: Outputs | None,
        attention: Outputs | None = None,
    ) -> None:
        super().__init__()
        # The shortcut is registered first, as published plans list it first.
        self.shortcut = nn.Sequential(*conv(inputs.channels, projection, 1, stride)) if projection else nn.Identity()
        layers: list[nn.Module] = []
        channels, left = inputs.channels, stride
        for number, (own, kernel) in enumerate(zip(body, kernels, strict=True), start=1):
            if attention is not None and number == len(body):
                layers.append(ChannelAttention(channels, attention.channels))
            step, left = (left, 1) if kernel > 1 else (1, left)
            layers += [*conv(channels, own, kernel, step), nn.ReLU(inplace=True)]
            channels = own.channels
        self.body = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, H', W']
        return torch.relu(self.body(x) + self.shortcut(x))


def zero_last_scales(net: nn.Module) -> None:
    """Let every block begin as its shortcut: the scale of its last norm is 0.

    Raises:
        ValueError: the network has no such block.

    Source: Goyal et al. 2017, sec. 5.1; Yu et al. 2020 (BigNAS), sec. 3.2.
    """
    blocks = [module for module in net.modules() if isinstance(module, Residual)]
    if not blocks:
        raise ValueError(f"zero_scale: true needs the blocks of a ResNet, and {type(net).__name__} has none")
    for block in blocks:
        nn.init.zeros_(block.body[-1].weight)  # type: ignore[arg-type]


def slims(depth: Depth, multiplier: float) -> list[Slims]:
    """Channels of the full network, layer by layer, the projection of a shortcut before the block's body."""
    return list(_slims(depth, multiplier))


def _slims(depth: Depth, multiplier: float) -> Iterator[Slims]:
    inputs = scaled(depth.stages[0], multiplier)
    yield Slims(inputs)
    for channels, repeats in zip(depth.stages, depth.repeats, strict=True):
        inner = scaled(channels, multiplier)
        outputs = inner * depth.expansion
        for repeat in range(repeats):
            if projects(depth, channels, repeat):
                yield Slims(outputs)
            yield from [Slims(inner)] * (len(depth.kernels) - 1)
            if depth.attention:
                yield from (Slims(reduced(inner), stays=True), Slims(inner))
            yield Slims(outputs)


def projects(depth: Depth, channels: int, repeat: int) -> bool:
    """Whether the shortcut of a block is a projection: in the first of a stage, but where nothing changes there."""
    return repeat == 0 and (channels != depth.stages[0] or depth.expansion > 1)


def network(depth: Depth, outputs: Sequence[Outputs], *, classes: int, size: int) -> Classifier:
    """The network with these channels.

    Raises:
        ValueError: a block adds a shortcut to an output of other channels.

    Source: He et al. 2016 (ResNet), table 1; for inputs of 64 and 32 a 3x3 stem without pooling, as in their sec. 4.2.
    """
    left = iter(outputs)
    inputs = next(left)
    features: list[nn.Module] = [_stem(inputs, size)]
    for stage, (channels, repeats) in enumerate(zip(depth.stages, depth.repeats, strict=True)):
        for repeat in range(repeats):
            projection = next(left) if projects(depth, channels, repeat) else None
            body = [next(left) for _ in depth.kernels[:-1]]
            hidden = (next(left), next(left))[0] if depth.attention else None
            body.append(next(left))
            if (projection or inputs) != body[-1]:
                raise ValueError(
                    f"block features.{len(features)} adds a shortcut of {(projection or inputs).channels} channels "
                    f"to its output of {body[-1].channels}; they must be equal"
                )
            stride = 2 if stage > 0 and repeat == 0 else 1
            features.append(Residual(inputs, body, depth.kernels, stride, projection, hidden))
            inputs = body[-1]
    return Classifier(nn.Sequential(*features), inputs.channels, classes)


def _stem(outputs: Outputs, size: int) -> nn.Sequential:
    if size == 224:
        return nn.Sequential(*conv(3, outputs, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*conv(3, outputs, 3, 2 if size == 64 else 1), nn.ReLU(inplace=True))
