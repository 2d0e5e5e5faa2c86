"""The methods of search, each from a job and what scores plans to a plan for each budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from slimlib.core.width import WidthPlan
from slimlib.search.evolution import drawn, evolved
from slimlib.search.greedy import slimmed
from slimlib.search.job import Job
from slimlib.search.plan_file import FoundPlan, Visited
from slimlib.search.run import Run
from slimlib.search.scores import channel_scores
from slimlib.search.space import cut, uniform_plans

LEAST_RANKED = 0.1  # of a group stays where a ranking decides; Chin et al. 2020 (LeGR), published code
SLACK = 1.1  # a ranking decides down to so many budgets, and greedy from there

Found = list[FoundPlan]


def greedy(job: Job, run: Run) -> Found:
    """From the start down to each budget in turn."""
    space = job.space(steps=job.options.steps, begin=job.start)
    job.check_budgets(space)
    levels = torch.zeros(space.groups, dtype=torch.long)
    first = float(space.cost(levels[None])[0])
    way = max(first - min(job.amounts), 1e-12)
    history: list[Visited] = []
    found: dict[int, FoundPlan] = {}
    for position in job.hardest_last:
        now = history[-1].cost if history else first
        run.part = ((first - now) / way, max(now - job.amounts[position], 0.0) / way)
        levels, kept = slimmed(run, space, levels, job.amounts[position], job.options.per)
        history += kept[1:] if history else kept
        found[position] = job.found(position, history[-1], history)
    return _in_order(found)


def evolution(job: Job, run: Run) -> Found:
    """Each budget alone."""
    space = job.space(steps=job.options.steps)
    options = job.options

    def members(budget: float, generator: torch.Generator) -> list[Visited]:
        start = [] if job.start == job.layout.full else [space.nearest(job.start)]
        first = [*start, space.uniform(budget)]
        return evolved(run, space, budget, options.evaluations, options.population, generator, first)

    job.check_budgets(space)
    return _each_alone(job, run, members)


def random(job: Job, run: Run) -> Found:
    """The best of as many plans as evolution scores."""
    space = job.space(steps=job.options.steps)
    job.check_budgets(space)
    return _each_alone(
        job, run, lambda budget, generator: drawn(run, space, budget, job.options.evaluations, generator)
    )


def ranking(job: Job, run: Run) -> Found:
    """Channels above a threshold, a little too many, from which greedy takes the rest; plans are nested."""
    fine = job.space(steps=None, least=LEAST_RANKED)
    job.check_budgets(fine)
    values = (job.ranking or channel_scores(job.net)).values
    before = torch.tensor(job.start)
    found: dict[int, FoundPlan] = {}
    for number, position in enumerate(job.hardest_last):
        run.part = (number / len(job.budgets), 1 / len(job.budgets))
        amount = job.amounts[position]
        begin = fine.channels(cut(fine, values, SLACK * amount)[None])[0].minimum(before).tolist()
        spaces = [job.space(steps=steps, begin=begin, least=LEAST_RANKED) for steps in (job.options.steps, None)]
        space = spaces[0] if spaces[0].smallest <= amount else spaces[1]
        levels, kept = slimmed(run, space, torch.zeros(space.groups, dtype=torch.long), amount, job.options.per)
        before = space.channels(levels[None])[0]
        found[position] = job.found(position, kept[-1], kept)
    return _in_order(found)


def uniform(job: Job, run: Run) -> Found:
    """The widest uniform width."""
    channels = torch.tensor(list(uniform_plans(job.layout)))
    costs = job.measure(channels)
    found = {}
    for position, amount in enumerate(job.amounts):
        fitting = (costs <= amount).nonzero()[:, 0]
        if not len(fitting):
            raise ValueError(
                f"no uniform width is within the budget of {job.budgets[position]}: the narrowest costs "
                f"{float(costs.min()):g} {job.unit}"
            )
        chosen = fitting[costs[fitting].argmax()]
        plan = tuple(channels[chosen].tolist())
        visited = Visited(WidthPlan(plan), float(costs[chosen]), run.scores([plan])[0])
        run.tell((position + 1) / len(job.amounts), visited.score)
        found[position] = job.found(position, visited, [visited])
    return _in_order(found)


METHODS: Mapping[str, Callable[[Job, Run], Found]] = {
    "greedy": greedy,
    "evolution": evolution,
    "ranking": ranking,
    "random": random,
    "uniform": uniform,
}


def _each_alone(job: Job, run: Run, members: Callable[[float, torch.Generator], Sequence[Visited]]) -> Found:
    found = {}
    for position, amount in enumerate(job.amounts):
        run.part = (position / len(job.amounts), 1 / len(job.amounts))
        generator = torch.Generator().manual_seed(job.options.seed)
        history: list[Visited] = []  # each that was the best so far
        for one in members(amount, generator):
            if not history or one.score < history[-1].score:
                history.append(one)
        found[position] = job.found(position, history[-1], history)
    return _in_order(found)


def _in_order(found: Mapping[int, FoundPlan]) -> Found:
    return [found[position] for position in range(len(found))]
