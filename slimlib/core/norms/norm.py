"""What each way to keep BatchNorm in a slimmable network decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from slimlib.core.swapping import Part, Swaps
from slimlib.core.width import Widths


@dataclass(frozen=True)
class Norm:
    """How BatchNorm is kept. Its text is the name by which users choose it."""

    name: ClassVar[str]
    has_statistics_of_widths: ClassVar[bool] = True
    """Each width has statistics of its own, so that `calibrate` can compute them."""
    learns_statistics: ClassVar[bool] = True
    """Training leaves every width with statistics: none need be computed after it."""
    has_private_parameters: ClassVar[bool] = False
    """A switch has parameters that get no gradient from the passes of the others; only switches can be set."""

    def __str__(self) -> str:
        return self.name

    def check(self, widths: Widths | None) -> None:
        """Raise ValueError for widths that cannot be kept so."""

    def prepare(self, part: Part, switches: Sequence[tuple[int, ...]]) -> None:
        """Add to a BatchNorm what it needs for these channel numbers, all below the full ones, of the network."""

    def swaps(self, layer: nn.Module, channels: tuple[int, ...]) -> Swaps:
        """What a BatchNorm has in place of its sliced affine and statistics, at a width below the full one."""
        return {}
