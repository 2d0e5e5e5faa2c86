"""Rules beyond the papers of slimmable networks: a range that grows, and widths that see smaller images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from slimlib.core.width import Width, WidthRange, is_whole
from slimlib.training.distillation import Distillation, Lesson, Lessons
from slimlib.training.sandwich import Sandwich, range_of
from slimlib.training.step import Step


class GrowingSandwich(Sandwich):
    """The sandwich rule on a range that begins with the largest width alone, and grows downwards.

    Args:
        widths: the whole range.
        alone: steps in which the largest width trains alone.
        growth: steps, after these, in which the smallest width that is trained falls linearly to that of the range.
        samples, distill, lesson, seed: see `Sandwich`. The narrowest so far has the lesson of the smallest.

    Raises:
        ValueError: `widths` is no range, or a number of steps is below 0.

    Source: Cao et al. 2023 (US3L), dynamic sampling, there without the sandwich rule.
    """

    def __init__(
        self,
        widths: WidthRange,
        samples: int = 4,
        distill: Distillation | None = None,
        *,
        alone: int = 1000,
        growth: int = 1000,
        lesson: Lesson | Lessons | None = None,
        seed: int = 0,
    ) -> None:
        self.range = range_of(widths, self)
        super().__init__(widths, samples, distill, lesson=lesson, seed=seed)
        if not is_whole(alone, 0) or not is_whole(growth, 0):
            raise ValueError(f"alone={alone!r} and growth={growth!r} must be whole numbers of steps, at least 0")
        self.alone, self.growth, self.steps = alone, growth, 0
        self.narrowest = self.range.smallest

    def draw(self, step: Step | None = None) -> list[Width]:
        whole = self.range
        grown = 1.0 if self.steps >= self.alone + self.growth else max(self.steps - self.alone, 0) / max(self.growth, 1)
        self.steps += 1
        low = whole.smallest if grown == 1 else whole.largest - grown * (whole.largest - whole.smallest)
        self.narrowest = low
        if not grown:
            return [whole.largest]
        if grown == 1:
            return super().draw(step)
        uniform = torch.rand(self.samples - 2, generator=self.generator, dtype=torch.float64).tolist()
        between = [low + (whole.largest - low) * u for u in uniform]
        return list[Width](sorted({whole.largest, low, *between}, reverse=True))

    def lesson(self, width: Width) -> Lesson:
        narrowest = width == self.narrowest and width != self.range.largest
        return super().lesson(self.range.smallest if narrowest else width)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.steps = int(state["steps"])


class MultiResolutionSandwich(Sandwich):
    """The sandwich rule in which all but the largest width see their images at a random size.

    Args:
        widths, samples, distill, lesson, seed: see `Sandwich`.
        sizes: height and width in pixels that a narrow width's images are scaled to, drawn anew for each.

    Raises:
        ValueError: there is no size, or one below 1.

    Source: Yang et al. 2020 (MutualNet), sec. 3.2.
    """

    def __init__(
        self,
        widths: WidthRange,
        samples: int = 4,
        distill: Distillation | None = None,
        *,
        sizes: Sequence[int] = (32, 28, 24, 20),
        lesson: Lesson | Lessons | None = None,
        seed: int = 0,
    ) -> None:
        range_of(widths, self)
        super().__init__(widths, samples, distill, lesson=lesson, seed=seed)
        if not isinstance(sizes, Sequence) or not sizes or not all(is_whole(size, 1) for size in sizes):
            raise ValueError(f"sizes={sizes!r} must be sides of images in pixels, such as [32, 28, 24, 20]")
        self.choice = tuple(sizes)
        self.sizes: dict[Width, int] = {}

    def draw(self, step: Step | None = None) -> list[Width]:
        widths = super().draw(step)
        drawn = torch.randint(len(self.choice), (len(widths),), generator=self.generator).tolist()
        self.sizes = {width: self.choice[index] for width, index in zip(widths[1:], drawn[1:], strict=True)}
        return widths

    def size_at(self, width: Width) -> int | None:
        return self.sizes.get(width)
