"""The thresholds of a cascade, found on what each width said of held-out samples: no network runs here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slimlib.dynamic.cascade import CascadePoint
from slimlib.dynamic.outcomes import Outcomes

PRICES = 60  # of a sample's cost at the widest width, in units of the score, from low to high
LOWEST, HIGHEST = 1e-4, 1e2
SWEEPS = 20


@dataclass(frozen=True)
class Simulation:
    """What a cascade would do with held-out samples.

    Attributes:
        outcomes: of its widths; costs: of a sample at each, as shares of the widest.
    """

    outcomes: Outcomes
    costs: tuple[float, ...]

    def point(self, thresholds: Sequence[float]) -> CascadePoint:
        """Cost, score and shares of some thresholds."""
        stage, cost = self._stages(thresholds)
        score = self.outcomes.score.gather(0, stage[None])[0]
        counts = torch.bincount(stage, minlength=len(self.costs)).double() / len(stage)
        return CascadePoint(tuple(thresholds), float(cost.mean()), float(score.mean()), tuple(counts.tolist()))

    def _stages(self, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The stage at which each sample stops, and what it costs until then."""
        count = self.outcomes.score.shape[1]
        stage, cost = torch.full((count,), len(self.costs) - 1), torch.zeros(count, dtype=torch.double)
        left = torch.ones(count, dtype=torch.bool)
        for place, own in enumerate(self.costs):
            least = thresholds[place] if place < len(thresholds) else -math.inf
            if least == math.inf:
                continue
            cost[left] += own
            stops = left & (self.outcomes.confidence[place] >= least) if least > -math.inf else left.clone()
            stage[stops] = place
            left &= ~stops
        return stage, cost

    def path(self) -> list[CascadePoint]:
        """The best settings from cheap to good: none is beaten in cost and score by another."""
        count = len(self.costs)
        alone = [(math.inf,) * place + (-math.inf,) * (count - 1 - place) for place in range(count)]
        found = {thresholds: self.point(thresholds) for thresholds in alone}
        last: tuple[float, ...] = alone[-1]
        for step in range(PRICES):
            price = LOWEST * (HIGHEST / LOWEST) ** (step / (PRICES - 1))
            for start in {last, alone[-1], alone[0]}:
                thresholds = self._best(price, start)
                found.setdefault(thresholds, self.point(thresholds))
            last = max(found, key=lambda t: _value(found[t], price))
        return list(_front(list(found.values())))

    def _best(self, price: float, start: tuple[float, ...]) -> tuple[float, ...]:
        """One threshold after another, from the last to the first, until none gives more score for the price."""
        now = list(start)
        value = _value(self.point(now), price)
        for _ in range(SWEEPS):
            before = value
            for place in reversed(range(len(now))):
                for candidate in self._candidates(now, place, price):
                    changed = [*now[:place], candidate, *now[place + 1 :]]
                    if candidate == -math.inf:
                        changed[place + 1 :] = [-math.inf] * (len(now) - place - 1)
                    if not _ordered(changed):
                        continue
                    if (better := _value(self.point(changed), price)) > value + 1e-12:
                        now, value = changed, better
            if value <= before + 1e-12:
                break
        return tuple(now)

    def _candidates(self, now: Sequence[float], place: int, price: float) -> Iterator[float]:
        """The best threshold of a stage if the others stay, and those at which it takes all answers, or none."""
        yield math.inf
        yield -math.inf
        others = [*now[:place], math.inf, *now[place + 1 :]]
        stage, cost = self._stages(others)
        without = self.outcomes.score.gather(0, stage[None])[0] - price * cost
        reach = torch.ones(len(stage), dtype=torch.bool)
        spent = torch.zeros(len(stage), dtype=torch.double)
        for earlier in range(place):
            if now[earlier] < math.inf:
                spent[reach] += self.costs[earlier]
                reach &= self.outcomes.confidence[earlier] < now[earlier]
        high = min((least for least in now[:place] if least < math.inf), default=math.inf)
        low = max((least for least in now[place + 1 :] if least < math.inf), default=-math.inf)
        stop = self.outcomes.score[place] - price * spent  # what the stage itself costs is paid either way
        confidence, order = self.outcomes.confidence[place][reach].sort(descending=True)
        gains = (stop - without)[reach][order].cumsum(0)
        ends = torch.ones(len(confidence), dtype=torch.bool)
        ends[:-1] = confidence[:-1] > confidence[1:]  # samples of one confidence go together
        ends &= (confidence <= high) & (confidence >= low)
        if bool(ends.any()):
            best = int(gains.masked_fill(~ends, -math.inf).argmax())
            following = float(confidence[best + 1]) if best + 1 < len(confidence) else -math.inf
            yield max(_between(float(confidence[best]), following), low)


def _between(least: float, following: float) -> float:
    """A threshold that takes the first and not the second, away from both where it can."""
    middle = (least + following) / 2
    return middle if following < middle <= least else least


def _ordered(thresholds: Sequence[float]) -> bool:
    used = [least for least in thresholds if least < math.inf]
    return used == sorted(used, reverse=True)


def _value(point: CascadePoint, price: float) -> float:
    assert point.score is not None and point.cost is not None
    return point.score - price * point.cost


def _front(points: Sequence[CascadePoint]) -> Iterator[CascadePoint]:
    best = -math.inf
    for point in sorted(points, key=lambda p: (p.cost, -(p.score or 0.0))):
        if point.score is not None and point.score > best:
            best = point.score
            yield point
