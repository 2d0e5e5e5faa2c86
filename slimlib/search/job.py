"""What a search is to do: the network, the budgets as numbers, and the costs of plans."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimlib.core.setting import slimming_of
from slimlib.core.slimming import Slimming
from slimlib.core.width import WidthPlan, check_is, check_whole
from slimlib.search.budgets import Budget
from slimlib.search.costs import plan_costs
from slimlib.search.greedy import Per, check_per
from slimlib.search.latency_table import LatencyTable
from slimlib.search.plan_file import FoundPlan, Visited, fingerprint
from slimlib.search.scores import ChannelScores
from slimlib.search.space import Space, ladders

STARTING = ("greedy", "evolution", "ranking")


@dataclass(frozen=True)
class Options:
    """The plain arguments of a search, checked; see `slimlib.search`."""

    method: str
    per: Per
    steps: int
    evaluations: int
    population: int
    seed: int

    def __post_init__(self) -> None:
        check_per(self.per)
        check_whole(
            steps=(self.steps, 2),
            evaluations=(self.evaluations, 1),
            population=(self.population, 2),
            seed=(self.seed, 0),
        )


class Job:
    """A search before it runs.

    Attributes:
        amounts: the budgets in their unit.
        full: cost of the full network, in the same.
        start: channel numbers at which it begins.
    """

    def __init__(
        self,
        net: nn.Module,
        budgets: Sequence[Budget],
        example: Any,
        options: Options,
        *,
        batches: Sequence[Any] = (),
        ranking: ChannelScores | None = None,
        start: WidthPlan | FoundPlan | None = None,
        latency: LatencyTable | None = None,
    ) -> None:
        self.net, self.budgets, self.options, self.batches = net, budgets, options, batches
        slimming = slimming_of(net)
        self.layout, self.unit = slimming.layout, budgets[0].unit
        self.costs = plan_costs(net, example)
        check_is(LatencyTable | None, "what latency_table returned", latency=latency)
        check_is(ChannelScores | None, "what channel_scores or learned_ranking returned", ranking=ranking)
        if self.unit == "ms":
            if latency is None:
                raise ValueError("a budget in ms needs a table of times: latency=slimlib.latency_table(net, example)")
            latency.check(net, example)
        elif latency is not None:
            raise ValueError(
                f"latency= is for budgets in milliseconds, and {budgets[0]} is none; write for example '10 ms', or "
                "Budget(0.9, 'ms', share=True) for a share of the full network's time"
            )
        self.latency = latency
        self._times = None if latency is None else latency.measure(self.layout)
        self.full = float(self.measure(torch.tensor([self.layout.full]))[0])
        self.amounts = [b.amount * self.full if b.share else b.amount for b in budgets]
        self.start = self.layout.full if start is None else _channels_of(start, slimming)
        for name, given, methods in (("start", start, STARTING), ("ranking", ranking, ("ranking",))):
            if given is not None and options.method not in methods:
                raise ValueError(
                    f"{name}= has no meaning for method={options.method!r}; it is for {', '.join(methods)}"
                )
        if ranking is not None:
            ranking.check(self.layout)
        self.ranking = ranking

    def measure(self, channels: Tensor) -> Tensor:
        """What plans [plans, groups] cost in the unit of the budgets, [plans]."""
        if self._times is not None:
            return self._times(channels)
        costs = self.costs(channels)
        return (costs.macs if self.unit == "macs" else costs.params).double()

    def space(self, *, steps: int | None, begin: Sequence[int] | None = None, least: float = 0.0) -> Space:
        return Space(self.layout, ladders(self.layout, steps, begin, least), self.measure)

    def check_budgets(self, space: Space) -> None:
        """Raise ValueError for a budget that no plan of a space is within."""
        for budget, amount in zip(self.budgets, self.amounts, strict=True):
            if amount < space.smallest:
                raise ValueError(
                    f"no plan is within the budget of {budget}: the fewest channels, one step for each layer, cost "
                    f"{space.smallest:g} {self.unit}, {space.smallest / self.full:.2g} of the full network"
                )

    @property
    def hardest_last(self) -> list[int]:
        """Positions of the budgets, the largest first."""
        return sorted(range(len(self.amounts)), key=lambda i: -self.amounts[i])

    def found(self, position: int, visited: Visited, history: Sequence[Visited]) -> FoundPlan:
        """The result for a budget."""
        costs = self.costs([visited.plan])
        return FoundPlan(
            self.budgets[position],
            visited.plan,
            int(costs.macs[0]),
            int(costs.params[0]),
            visited.cost,
            visited.score,
            tuple(history),
        )

    def about(self) -> dict[str, Any]:
        """All that decides the result, as plain data, for the file of the search."""
        full = self.costs(torch.tensor([self.layout.full]))
        return {
            **asdict(self.options),
            "budgets": [asdict(budget) for budget in self.budgets],
            "start": list(self.start),
            "example": [int(full.macs[0]), int(full.params[0])],
            "weights": fingerprint(self.net),
            "batches": _digest([[list(x.shape), float(x.double().sum())] for x in _tensors(self.batches)]),
            "ranking": None if self.ranking is None else _digest([v.tolist() for v in self.ranking.values]),
            "latency": None if self.latency is None else self.latency.digest,
        }


def _channels_of(start: Any, slimming: Slimming) -> tuple[int, ...]:
    """Of the plan that a search begins at, also as one found it."""
    plan = getattr(start, "plan", start)
    try:
        slimming.check(plan)
    except ValueError as error:
        raise ValueError(f"start: {error}") from None
    return slimming.channels_at(plan)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _digest(data: Any) -> str:
    return hashlib.sha256(repr(data).encode()).hexdigest()[:16]
