"""Channel numbers of the networks here: what a layer has at full width, and how it slims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Literal

from torch import nn

from slimlib.core.width import fitting_divisor, round_channels

NormKind = Literal["batch", "group"]
GROUP_SIZE = 8  # channels that a GroupNorm normalises together


@dataclass(frozen=True)
class Outputs:
    """The output channels of a layer as it is built, and the norm that follows it.

    group: channels of each group of a GroupNorm; None: a BatchNorm.
    """

    channels: int
    group: int | None = None

    def norm(self) -> nn.Module:
        if self.group is None:
            return nn.BatchNorm2d(self.channels)
        return nn.GroupNorm(self.channels // self.group, self.channels)


@dataclass(frozen=True)
class Slims:
    """How the output channels of a layer slim.

    full: their number at width 1.
    expansion: of a hidden layer over the one before it. It is rounded in steps of that many divisors.
    stays: they stay full at every width.
    """

    full: int
    expansion: int = 1
    stays: bool = False

    def at(self, width: float, divisor: int) -> int:
        """Their number at a width."""
        return self.full if self.stays else round_channels(self.full, width, divisor * self.expansion)

    def group(self, divisor: int) -> int:
        """The largest GroupNorm group up to `GROUP_SIZE` that every number it may slim to is a multiple of."""
        step = gcd(self.full, GROUP_SIZE if self.stays else fitting_divisor(self.full, divisor * self.expansion))
        return largest_divisor(step)


def largest_divisor(number: int) -> int:
    """The largest divisor of `number` that is at most `GROUP_SIZE`."""
    return next(size for size in range(GROUP_SIZE, 0, -1) if number % size == 0)


def scaled(channels: int, multiplier: float) -> int:
    """Channels of a network made thinner or wider as a whole: a multiple of 8, at least 8.

    Source: Sandler et al. 2018 (MobileNetV2), the rounding of their published code.
    """
    if multiplier == 1:
        return channels
    wanted = channels * multiplier
    number = max(8, int(wanted + 4) // 8 * 8)
    return number + 8 if number < 0.9 * wanted else number


def layers_in_order(net: nn.Module) -> tuple[str, ...]:
    """Names of the layers of a dense network that make channels, all but depthwise ones, and the classifier last."""
    return tuple(
        name
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and not 1 < module.groups == module.in_channels)
    )


def channel_rule(names: Sequence[str], table: Sequence[Slims], divisor: int) -> dict[str, object]:
    """The arguments by which `slimlib.convert` rounds channels as `Slims.at` does."""
    return {
        "divisor": divisor,
        "divisors": {
            name: divisor * slims.expansion
            for name, slims in zip(names, table, strict=True)
            if slims.expansion > 1 and not slims.stays
        },
        "keep": tuple(name for name, slims in zip(names, table, strict=True) if slims.stays),
    }
