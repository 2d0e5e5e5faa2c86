"""The plans that a search chooses from: the steps of each group, what they cost, and random ones within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from slimlib.core.layout import Layout
from slimlib.core.width import round_channels

WIDTHS = 256  # that are told apart
Measure = Callable[[Tensor], Tensor]  # channel numbers [plans, groups] -> cost [plans]


@dataclass(frozen=True)
class Space:
    """Channel numbers that each group may have, and what plans cost.

    ladders: of each group its channel numbers [levels], from all down to the fewest.
    measure: the cost that is limited.
    """

    layout: Layout
    ladders: tuple[Tensor, ...]
    measure: Measure

    @property
    def groups(self) -> int:
        return len(self.ladders)

    @cached_property
    def counts(self) -> Tensor:
        """Levels of each group, [groups]."""
        return torch.tensor([len(ladder) for ladder in self.ladders])

    @cached_property
    def _table(self) -> Tensor:  # [groups, levels], padded with the last
        most = int(self.counts.max())
        return torch.stack([torch.cat([x, x[-1:].expand(most - len(x))]) for x in self.ladders])

    def channels(self, levels: Tensor) -> Tensor:
        """Channel numbers [plans, groups] of levels [plans, groups]; level 0 is the widest."""
        return self._table.gather(1, levels.T).T

    def cost(self, levels: Tensor) -> Tensor:
        """What plans cost, [plans]."""
        return self.measure(self.channels(levels))

    @cached_property
    def smallest(self) -> float:
        """What the plan of the fewest channels costs."""
        return float(self.cost((self.counts - 1)[None])[0])

    def nearest(self, channels: Sequence[int] | Tensor) -> Tensor:
        """The level of each group whose channel number is nearest, the wider one of two, [groups]."""
        distance = (self._table - torch.as_tensor(channels)[:, None]).abs()
        return distance.argmin(1)

    def neighbours(self, levels: Tensor, change: int) -> Tensor:
        """Levels [plans, groups] of the plans with one group `change` levels narrower, without impossible ones."""
        moved = levels + change * torch.eye(self.groups, dtype=torch.long)
        return moved[((moved >= 0) & (moved < self.counts)).all(1)]

    def drawn(self, budget: float, generator: torch.Generator) -> Tensor:
        """A random plan within the budget, to which no level can be added: every group draws one, then `fitted`."""
        draw = torch.rand(self.groups, generator=generator, dtype=torch.double)
        return self.fitted((draw * self.counts).long(), budget, generator)

    def fitted(self, levels: Tensor, budget: float, generator: torch.Generator) -> Tensor:
        """Make random groups narrower until the plan is within the budget, then others wider as long as it stays so."""
        while float(self.cost(levels[None])[0]) > budget:
            levels = _any(self.neighbours(levels, 1), generator)
        while True:
            wider = self.neighbours(levels, -1)
            within = wider[self.cost(wider) <= budget] if len(wider) else wider
            if not len(within):
                return levels
            levels = _any(within, generator)

    def uniform(self, budget: float) -> Tensor:
        """The widest plan in which all groups have the same width, within the budget, as levels of the ladders."""
        plans = torch.stack([self.nearest(plan) for plan in uniform_plans(self.layout)])
        within = (self.cost(plans) <= budget).nonzero()
        return plans[int(within[0])] if len(within) else self.counts - 1


def uniform_plans(layout: Layout) -> dict[tuple[int, ...], float]:
    """All plans of uniform widths, wide ones first -> the widest width of each, in 256ths."""
    widths = [number / WIDTHS for number in range(1, WIDTHS + 1)]
    plans = {tuple(round_channels(g.units, width, g.divisor) for g in layout.groups): width for width in widths}
    return dict(reversed(plans.items()))


def ladders(
    layout: Layout, steps: int | None = None, begin: Sequence[int] | None = None, least: float = 0.0
) -> tuple[Tensor, ...]:
    """Channel numbers of each group, step by step from all of them (or from `begin`) down.

    Args:
        steps: a step is this part of the full number, rounded to the group's divisor, at least one divisor; None: one.
        least: share of a group that stays; always at least one divisor does.

    Source: Yu & Huang 2019 (AutoSlim): their plans count down from the full numbers in twelfths, rounded to 8.
    """
    found = []
    for group, most in zip(layout.groups, begin or layout.full, strict=True):
        step = group.divisor if steps is None else step_of(group.units, group.divisor, steps)
        stays = min(max(group.divisor, math.ceil(least * group.units)), most)
        found.append(torch.arange(most, stays - 1, -step))
    return tuple(found)


def step_of(units: int, divisor: int, steps: int) -> int:
    """Channels in one step of a group."""
    return max(divisor, int(units / steps / divisor + 0.5) * divisor)


def cut(space: Space, values: Sequence[Tensor], budget: float) -> Tensor:
    """The plan of the lowest threshold that is within a budget, as levels [groups]; the narrowest where none is.

    Plans of higher thresholds are part of those of lower ones.

    Args:
        values: scores [units] of each group, that compare between groups.

    Source: Chin et al. 2020 (LeGR), sec. 3.1.
    """
    thresholds = torch.cat(list(values)).unique()
    low, high = 0, len(thresholds) - 1
    while low < high:
        middle = (low + high) // 2
        if float(space.cost(_above(space, values, thresholds[middle])[None])[0]) <= budget:
            high = middle
        else:
            low = middle + 1
    return _above(space, values, thresholds[low])


def _above(space: Space, values: Sequence[Tensor], threshold: Tensor) -> Tensor:
    return space.nearest(torch.stack([(of_group >= threshold).sum() for of_group in values]))


def _any(plans: Tensor, generator: torch.Generator) -> Tensor:
    return plans[int(torch.randint(len(plans), (), generator=generator))]
