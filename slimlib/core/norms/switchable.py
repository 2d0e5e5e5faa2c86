"""Switchable BatchNorm: each switch has an affine and statistics of its own, which its training learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from slimlib.core.norms.norm import Norm
from slimlib.core.statistics import AFFINE, STATISTICS, OfWidth
from slimlib.core.swapping import Part, Swaps
from slimlib.core.width import Switches, Widths


@dataclass(frozen=True)
class Switchable(Norm):
    """Private BatchNorm for a short, fixed list of widths.

    Source: Yu et al. 2019 (Slimmable Neural Networks), sec. 3.2.
    """

    name = "switchable"
    has_private_parameters = True

    def check(self, widths: Widths | None) -> None:
        if not isinstance(widths, Switches):
            raise ValueError("norm 'switchable' needs its switches, not a range: widths=Switches(0.25, 0.5, 1.0)")

    def prepare(self, part: Part, switches: Sequence[tuple[int, ...]]) -> None:
        """Copies of the affine and statistics of the active channels."""
        layer = part.module
        for channels in dict.fromkeys(switches):
            for key in AFFINE:
                if (shared := layer._parameters.get(key)) is not None:
                    own = part.active(shared.detach(), channels).clone()
                    private = nn.Parameter(own, requires_grad=shared.requires_grad)
                    layer.register_parameter(str(OfWidth(key, channels)), private)
            for key in STATISTICS:
                if (buffer := layer._buffers[key]) is not None:
                    layer.register_buffer(str(OfWidth(key, channels)), part.active(buffer, channels).clone())

    def swaps(self, layer: nn.Module, channels: tuple[int, ...]) -> Swaps:
        own: Swaps = {key: layer._parameters.get(str(OfWidth(key, channels))) for key in AFFINE}
        return own | {key: layer._buffers[str(OfWidth(key, channels))] for key in STATISTICS}
