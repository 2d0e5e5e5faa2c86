"""Non-uniform widths: every group of layers draws its own."""

from __future__ import annotations

import torch
from torch import nn

from slimlib.core.setting import slimming_of
from slimlib.core.width import Width, WidthPlan, WidthRange, Widths, by_size, is_whole, round_channels
from slimlib.training.distillation import Distillation, Lesson, Lessons
from slimlib.training.sandwich import Sandwich, range_of
from slimlib.training.step import Step


def random_plan(
    net: nn.Module, widths: WidthRange, generator: torch.Generator, *, mean: float | None = None
) -> WidthPlan:
    """A plan of `net` in which every group of layers has its own width, drawn uniformly from the range.

    Args:
        mean: of the widths of its groups; the range is then the widest one around it.

    Source: Yu & Huang 2019 (US-Nets), experiments with non-uniform widths.
    """
    groups = slimming_of(net).layout.groups
    drawn = torch.rand(len(groups), generator=generator, dtype=torch.float64)
    low, span = widths.smallest, widths.largest - widths.smallest
    if mean is not None:
        span = 2 * min(mean - low, widths.largest - mean)
        drawn, low = (drawn - drawn.mean() + 0.5).clamp(0, 1), mean - span / 2
    own = [low + span * draw for draw in drawn.tolist()]
    return WidthPlan([round_channels(g.units, w, g.divisor) for g, w in zip(groups, own, strict=True)])


class NonuniformSandwich(Sandwich):
    """The sandwich rule whose random widths between the smallest and the largest are random plans.

    Args:
        widths: the range that each group of layers draws from.
        samples, distill, lesson, seed: see `Sandwich`.
        candidates: plans of one mean width that are drawn for each that is trained; 1: plans are taken as they come.
        choose: which of them is trained: the "best" or the "worst" by its loss on the batch, before the step.

    Raises:
        ValueError: the widths are no range, `candidates` is below 1, or what `Sandwich` refuses.

    Source: Yu & Huang 2019 (US-Nets), experiments with non-uniform widths; Wang et al. 2021 (AttentiveNAS), sec. 4,
    best-up and worst-up sampling, with 3 candidates of one cost.
    """

    def __init__(
        self,
        widths: Widths,
        samples: int = 4,
        distill: Distillation | None = None,
        *,
        candidates: int = 1,
        choose: str = "best",
        lesson: Lesson | Lessons | None = None,
        seed: int = 0,
    ) -> None:
        if not is_whole(candidates, 1) or choose not in ("best", "worst"):
            raise ValueError(
                f"candidates={candidates!r} must be a whole number, at least 1, and choose={choose!r} best or worst"
            )
        self._range = range_of(widths, self)
        super().__init__(widths, samples, distill, lesson=lesson, seed=seed)
        self.candidates, self.choose = candidates, choose

    def draw(self, step: Step | None = None) -> list[Width]:
        if step is None:
            raise ValueError("NonuniformSandwich needs to know the network: draw(step)")
        count = self.samples - len(self.fixed())
        plans = {self._plan(step) for _ in range(count)}
        return [self._range.largest, *sorted(plans, key=by_size, reverse=True), self._range.smallest]

    def _plan(self, step: Step) -> WidthPlan:
        """A random plan, or the best or worst of several that cost about as much."""
        if self.candidates == 1:
            return random_plan(step.net, self._range, self.generator)
        low, high = self._range.smallest, self._range.largest
        mean = low + (high - low) * torch.rand((), generator=self.generator, dtype=torch.float64).item()
        plans = [random_plan(step.net, self._range, self.generator, mean=mean) for _ in range(self.candidates)]
        return (min if self.choose == "best" else max)(plans, key=step.loss)
