"""Greedy slimming: take channels away where it costs least."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from slimlib.search.plan_file import Visited
from slimlib.search.run import Run
from slimlib.search.space import Space

Per = Literal["cost", "step"]


def check_per(per: str) -> None:
    """Raise ValueError for what no removal is judged by."""
    if per not in get_args(Per):
        raise ValueError(f"per={per!r} does not exist; choose 'cost' (loss per cost saved) or 'step' (loss alone)")


def slimmed(run: Run, space: Space, levels: Tensor, budget: float, per: Per) -> tuple[Tensor, list[Visited]]:
    """Narrow one group by one step, again and again, until the plan is within the budget.

    Each step tries every group, and keeps the removal that raises the score least, for each part of the cost that it
    saves (`per` "cost"), or as published, whatever it saves ("step").

    Args:
        levels: of each group, where to begin, [groups].

    Returns:
        The levels within the budget, and the plans on the way, the first of them that at which it began.

    Source: Yu & Huang 2019 (AutoSlim), sec. 3.2; Yang et al. 2018 (NetAdapt), the loss per cost saved.
    """
    kept = run.visit(space, levels[None])
    begin = kept[0].cost
    while kept[-1].cost > budget:
        narrower = space.neighbours(levels, 1)
        narrower = narrower[space.cost(narrower) < kept[-1].cost] if len(narrower) else narrower
        if not len(narrower):
            raise ValueError(
                f"no step makes the plan {list(kept[-1].plan.channels)} cheaper, which costs {kept[-1].cost:g}"
            )
        tried = run.visit(space, narrower)
        chosen = min(range(len(tried)), key=lambda i: _price(kept[-1], tried[i], per))
        levels = narrower[chosen]
        kept.append(tried[chosen])
        run.tell((begin - kept[-1].cost) / (begin - budget), kept[-1].score)
    return levels, kept


def _price(before: Visited, after: Visited, per: Per) -> float:
    """What a removal costs in score. Where the score falls, saving much is better, too."""
    if per == "step":
        return after.score
    rise, saved = after.score - before.score, before.cost - after.cost
    return rise / saved if rise > 0 else rise * saved
