"""Search the channels of a policy, by the returns of episodes that neither train nor judge it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

import slimlib as slim
from slimlib.search.plan_file import FoundPlans
from tasks.points import AS_IT_IS
from tasks.rl.evaluation import Judge, mean
from tasks.rl.models import Acting, one_observation
from tasks.training.choosing import SEARCHES
from tasks.training.recipe import Recipe
from tasks.training.run import Interrupted, TrainingRun, derive_seed

EPISODES = 4
"""That stand for a batch of a search."""


def searched_plans(model: Any, recipe: Recipe, judge: Judge, run: TrainingRun) -> FoundPlans:
    """A plan of the policy for each budget of a recipe; budgets are of what an action costs, without the critic.

    Raises:
        Interrupted: `run.watch.stop` asked for it.
    """
    effort, (method, own) = recipe.in_force(), SEARCHES[str(recipe.search)]
    seeds = [derive_seed(i, "episode of a search") for i in range(EPISODES * effort.pop("batches"))]

    def loss(_: nn.Module) -> float:
        if run.watch.stop():
            raise Interrupted
        return -mean(judge.returns(model, AS_IT_IS, len(seeds), model.env, seeds=seeds))

    example = (one_observation(model.observation_space, model.device),)
    given: dict[str, Any] = {**effort, **own}
    with computing_actions_alone(model.policy):
        return slim.search(model.policy, loss, recipe.budgets, example=example, method=method, seed=run.seed, **given)


@contextmanager
def computing_actions_alone(policy: nn.Module) -> Iterator[None]:
    """Within the block a forward of the policy is what it takes to act; `predict` acts as ever."""
    acting = Acting(policy)
    policy.__dict__["forward"] = acting.forward
    try:
        yield
    finally:
        del policy.__dict__["forward"]
