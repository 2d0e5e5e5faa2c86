"""Universal BatchNorm: one affine, sliced; statistics of each width are computed after training, by `calibrate`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from slimlib.core.norms.norm import Norm
from slimlib.core.statistics import STATISTICS, OfWidth
from slimlib.core.swapping import Swaps


@dataclass(frozen=True)
class Universal(Norm):
    """Post-statistics: in training a narrow width normalises by its batch, and keeps no statistics.

    Source: Yu & Huang 2019 (US-Nets), sec. 3.1.
    """

    name = "universal"
    learns_statistics = False

    def swaps(self, layer: nn.Module, channels: tuple[int, ...]) -> Swaps:
        own = {key: layer._buffers.get(str(OfWidth(key, channels))) for key in STATISTICS}
        # With track_running_stats off, training uses the batch and leaves the post-statistics alone.
        return own | {"track_running_stats": False}
