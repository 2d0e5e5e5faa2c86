"""Non-uniform widths: every group of layers draws its own."""

from __future__ import annotations

import torch
from torch import nn

from slimlib.core.setting import slimming_of
from slimlib.core.width import Width, WidthPlan, WidthRange, Widths, round_channels
from slimlib.training.distillation import Distillation, Lesson, Lessons
from slimlib.training.sandwich import Sandwich
from slimlib.training.step import Step


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
        widths: the range that each group of layers draws from.
        samples, distill, lesson, seed: see `Sandwich`.

    Raises:
        ValueError: the widths are no range, or what `Sandwich` refuses.

    Source: Yu & Huang 2019 (US-Nets), experiments with non-uniform widths.
    """

    def __init__(
        self,
        widths: Widths,
        samples: int = 4,
        distill: Distillation | None = None,
        *,
        lesson: Lesson | Lessons | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(widths, WidthRange):
            raise ValueError(f"NonuniformSandwich draws from a range, such as WidthRange(0.25, 1.0); got {widths!r}")
        super().__init__(widths, samples, distill, lesson=lesson, seed=seed)
        self._range = widths

    def draw(self, step: Step | None = None) -> list[Width]:
        if step is None:
            raise ValueError("NonuniformSandwich draws for the layers of a network: draw(step)")
        count = self.samples - len(self.fixed())
        plans = [random_plan(step.net, self._range, self.generator) for _ in range(count)]
        return [self._range.largest, *plans, self._range.smallest]
