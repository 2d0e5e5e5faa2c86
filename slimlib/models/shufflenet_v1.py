"""ShuffleNet v1 with 3 groups: grouped 1x1 convolutions, a channel shuffle, a shortcut that concatenates.

Its narrow widths are no nested parts of the full network, as the published ones are not: each layer
keeps leading channels by their *position*. At half width the shuffle and the concatenation put other
channels at a position than at full width, so that following the channels keeps most layers full.
What belongs together is therefore written down here, as a layout of one group: all layers of the
network are whole multiples of a *unit*, and a width is a number of units.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimlib.core.layout import Axis, Group, Layout, Segment
from slimlib.models.channels import NormKind, Outputs, largest_divisor, layers_in_order
from slimlib.models.classifier import Classifier, conv, depthwise

DIVISOR = 1  # unit
GROUPS = 3
UNITS = 8  # of the full network, which the published one calls width 2
STEM = 6  # channels of a unit: here and in the stages
STAGES = ((60, 4), (120, 8), (240, 4))  # channels, blocks
NARROWED = 4  # channels of a block over its inner ones


class Block(nn.Module):
    """Grouped 1x1 convolution, shuffle, depthwise convolution, grouped 1x1 convolution.

    The first block of a stage halves the size, and its input, pooled, is appended to its output;
    the others add their input.

    Source: Zhang et al. 2018 (ShuffleNet), sec. 3.2, figure 2.
    """

    def __init__(self, inputs: int, inner: Outputs, outputs: Outputs, *, groups: int, appends: bool) -> None:
        super().__init__()
        self.a = nn.Sequential(*conv(inputs, inner, 1, groups=groups), nn.ReLU(inplace=True))
        self.b = nn.Sequential(nn.ChannelShuffle(GROUPS), *depthwise(inner, 3, 2 if appends else 1))
        self.c = nn.Sequential(*conv(inner.channels, outputs, 1, groups=GROUPS))
        self.appends = appends

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, H, W] -> [N, outputs (+ inputs), H', W']
        y: Tensor = self.c(self.b(self.a(x)))
        if not self.appends:
            return torch.relu(x + y)
        return torch.cat([torch.relu(y), F.avg_pool2d(x, 3, 2, 1)], 1)


def network(units: int, *, classes: int, size: int, norm: NormKind) -> Classifier:
    """The network of so many units.

    Source: Zhang et al. 2018 (ShuffleNet), table 1; the pooling of the stem without padding, as in Yu et al. 2019.
    """

    def outputs(channels: int) -> Outputs:  # of a unit
        return Outputs(units * channels, largest_divisor(channels) if norm == "group" else None)

    stem: list[nn.Module] = [*conv(3, outputs(STEM), 3, 1 if size == 32 else 2), nn.ReLU(inplace=True)]
    features: list[nn.Module] = [nn.Sequential(*stem, *([nn.MaxPool2d(3, 2)] if size == 224 else []))]
    inputs = STEM
    for channels, blocks in STAGES:
        inner = outputs(channels // NARROWED)
        for block in range(blocks):
            appends, groups = block == 0, 1 if inputs == STEM else GROUPS  # few channels are not grouped
            own = outputs(channels - inputs if appends else channels)
            features.append(Block(units * inputs, inner, own, groups=groups, appends=appends))
            inputs = channels
    return Classifier(nn.Sequential(*features), units * inputs, classes)


def layout(net: nn.Module, units: int, divisor: int) -> Layout:
    """How each axis of the network consists of units: the outputs of a convolution within each of its groups."""
    makers = layers_in_order(net)[:-1]
    group = Group(makers[0], units, divisor, makers)
    return Layout((group,), dict(_axes(net, units)), kept={"classifier.0": "reaches the network's output"})


def _axes(net: nn.Module, units: int) -> Iterator[tuple[str, dict[int, Axis]]]:
    outputs: Axis = ()  # of the last convolution, which a norm then has too
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            # The published network has three convolutions for a grouped one, for the stem, and for what follows it;
            # its depthwise ones come after the shuffle, and keep leading channels of all groups together.
            within = GROUPS if module.groups in (1, GROUPS) else 1
            outputs = (_axis(module.out_channels // within, units),) * within
            per_group = module.in_channels // module.groups
            inputs = {1: (_axis(per_group, units),)} if module.in_channels > 3 and per_group > 1 else {}
            yield f"{name}.weight", {0: outputs, **inputs}
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            held = ("weight", "bias", "running_mean", "running_var")
            yield from ((f"{name}.{key}", {0: outputs}) for key in held if getattr(module, key, None) is not None)
        elif isinstance(module, nn.Linear):
            yield f"{name}.weight", {1: (_axis(module.in_features, units),)}


def _axis(channels: int, units: int) -> Segment:
    return Segment(0, units, channels // units)
