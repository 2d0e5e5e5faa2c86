"""Non-uniform widths: every group of layers draws its own."""

from __future__ import annotations

import torch
from torch import nn

from slimlib.core.setting import slimming_of
from slimlib.core.width import Width, WidthPlan, WidthRange, round_channels
from slimlib.training.distillation import Distillation
from slimlib.training.sandwich import Sandwich


def random_plan(net: nn.Module, widths: WidthRange, generator: torch.Generator) -> WidthPlan:
    """A plan of `net` in which every group of layers has its own width, drawn uniformly from the range.

    Source: Yu & Huang 2019 (US-Nets), experiments with non-uniform widths.
    """
    groups = slimming_of(net).layout.groups
    drawn = torch.rand(len(groups), generator=generator, dtype=torch.float64).tolist()
    span = widths.largest - widths.smallest
    own = [widths.smallest + span * draw for draw in drawn]
    return WidthPlan([round_channels(g.units, w, g.divisor) for g, w in zip(groups, own, strict=True)])


class NonuniformSandwich(Sandwich):
    """The sandwich rule whose random widths between the smallest and the largest are random plans.

    Args:
        net: the slimmable network whose layers draw.
        widths: the range that each of them draws from.
        samples, distill, seed: see `Sandwich`.

    Source: Yu & Huang 2019 (US-Nets), experiments with non-uniform widths.
    """

    def __init__(
        self,
        net: nn.Module,
        widths: WidthRange,
        samples: int = 4,
        distill: Distillation | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(widths, samples, distill, seed=seed)
        self._net, self._range = net, widths

    def draw(self) -> list[Width]:
        count = self.samples - len(self.fixed())
        plans = [random_plan(self._net, self._range, self._generator) for _ in range(count)]
        return [self._range.largest, *plans, self._range.smallest]
