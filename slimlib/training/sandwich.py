"""The sandwich rule, and the rules that it is compared with.

Every step of the sandwich rule trains the largest width, the smallest, and a few random ones between. What a width
between can do is bounded by the two, so that training both ends pulls all of them up though each is rarely drawn.
The gradients of these widths add up on the weights that they share, and one step of the optimizer follows. Every width
learns from the data, or, with in-place distillation, all but the largest learn from the largest of the same step.

Source: Yu & Huang 2019 (US-Nets), sec. 3.2 and algorithm 1.
"""

from __future__ import annotations

from abc import abstractmethod

import torch

from slimlib.core.width import Switches, Width, WidthRange, Widths, as_widths, by_size, is_whole
from slimlib.training.distillation import Distillation, Lesson, Lessons
from slimlib.training.rule import Rule
from slimlib.training.step import Step


class _Drawn(Rule):
    """Some fixed widths and, to make up the number of samples, random ones."""

    fewest = 2

    def __init__(
        self,
        widths: Widths,
        samples: int = 4,
        distill: Distillation | None = None,
        *,
        lesson: Lesson | Lessons | None = None,
        seed: int = 0,
    ) -> None:
        name = type(self).__name__
        if not is_whole(samples, self.fewest):
            raise ValueError(f"{name} needs at least {self.fewest} samples a step, a whole number, not {samples!r}")
        if isinstance(widths, Switches) and samples > len(widths.widths):
            raise ValueError(f"{name} cannot draw {samples} different widths from the switches {widths}")
        super().__init__(widths, distill=distill, lesson=lesson, seed=seed)
        self.samples = samples

    @abstractmethod
    def fixed(self) -> list[Width]:
        """The widths that every step trains."""

    def draw(self, step: Step | None = None) -> list[Width]:
        fixed = self.fixed()
        random = self._random(self.samples - len(fixed), without=fixed)
        return sorted({*fixed, *random}, key=by_size, reverse=True)

    def _random(self, count: int, *, without: list[Width]) -> list[Width]:
        if isinstance(self.widths, WidthRange):
            low, high = self.widths.smallest, self.widths.largest
            uniform = torch.rand(count, generator=self.generator, dtype=torch.float64)
            return [min(low + (high - low) * u, high) for u in uniform.tolist()]
        rest = [width for width in self.widths.widths if width not in without]
        order = torch.randperm(len(rest), generator=self.generator).tolist()
        return [rest[i] for i in order[:count]]


class Sandwich(_Drawn):
    """Every step trains the largest width, the smallest, and `samples` - 2 random ones between.

    The two ends bound the accuracy of all widths between, which do well although each is rarely trained. Start with
    this rule.

    Args:
        widths: a range, for a universally slimmable network, or switches.
        samples: widths in each step, at least 2.
        distill: short for `lesson=Lesson(data=0, distill=distill)`: all but the largest width learn from the output of
            the largest, not from the data.
        lesson: what all but the largest width learn from, by default the data; or `Lessons`, which can differ by width.
        seed: of the random widths.

    Raises:
        ValueError: `widths` is neither a range nor switches, or `samples` is below 2 or above the number of switches.

    Source: Yu & Huang 2019 (US-Nets), the sandwich rule, algorithm 1.
    """

    def fixed(self) -> list[Width]:
        return [self.widths.largest, self.widths.smallest]


class RandomWidths(_Drawn):
    """Every step trains `samples` random widths: what the sandwich rule is compared with.

    Source: Yu & Huang 2019 (US-Nets), ablation study of the sandwich rule.
    """

    fewest = 1
    trains_largest = False

    def fixed(self) -> list[Width]:
        return []


class SmallestAndRandom(_Drawn):
    """Every step trains the smallest width and `samples` - 1 random ones, for comparison.

    Source: Yu & Huang 2019 (US-Nets), ablation study of the sandwich rule.
    """

    trains_largest = False

    def fixed(self) -> list[Width]:
        return [self.widths.smallest]


class LargestAndRandom(_Drawn):
    """Every step trains the largest width and `samples` - 1 random ones, for comparison.

    Source: Yu & Huang 2019 (US-Nets), ablation study of the sandwich rule.
    """

    def fixed(self) -> list[Width]:
        return [self.widths.largest]


class EveryWidth(Rule):
    """Every step trains every switch.

    Args:
        widths: the switches of the network.
        distill: see `Sandwich`; None as published.
        lesson: see `Sandwich`; None as published.

    Source: Yu et al. 2019 (S-Nets), algorithm 1.
    """

    def __init__(
        self, widths: Switches, *, distill: Distillation | None = None, lesson: Lesson | Lessons | None = None
    ) -> None:
        if not isinstance(widths, Switches):
            raise ValueError(f"EveryWidth trains a list of switches, for example Switches(0.5, 1.0); got {widths!r}")
        super().__init__(widths, distill=distill, lesson=lesson)

    def draw(self, step: Step | None = None) -> list[Width]:
        assert isinstance(self.widths, Switches)
        return list(reversed(self.widths.widths))


class SingleWidth(Rule):
    """Every step trains one width alone: ordinary training, for comparison."""

    def __init__(self, width: Width = 1.0) -> None:
        super().__init__(Switches(width))
        self.width = width

    def draw(self, step: Step | None = None) -> list[Width]:
        return [self.width]


class LargestAlone(SingleWidth):
    """Every step trains the largest width alone, of a network that is cut down afterwards."""

    def __init__(self, widths: Widths) -> None:
        super().__init__(as_widths(widths).largest)


def range_of(widths: object, rule: Rule) -> WidthRange:
    """The widths of a rule that draws from a range.

    Raises:
        ValueError: they are something else.
    """
    if not isinstance(widths, WidthRange):
        raise ValueError(
            f"{type(rule).__name__} trains a range of widths, such as WidthRange(0.25, 1.0); got {widths!r}"
        )
    return widths
