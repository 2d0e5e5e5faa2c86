"""Learn how channels of different layers compare: one scale and one shift for the scores of each group."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimlib.core.arguments import check_batches
from slimlib.core.setting import slimming_of
from slimlib.core.width import check_is, is_whole
from slimlib.search.budgets import read_budgets
from slimlib.search.evaluation import Evaluation, Score
from slimlib.search.job import Job, Options
from slimlib.search.latency_table import LatencyTable
from slimlib.search.methods import LEAST_RANKED
from slimlib.search.plan_file import SearchFile
from slimlib.search.progress import Listener, listener_of
from slimlib.search.run import Run
from slimlib.search.scores import ChannelScores, channel_scores
from slimlib.search.sorting import sort_channels
from slimlib.search.space import cut

MUTATED = 0.1  # of the groups of a child
LAST_STEP = 0.2  # of the first one, of mutations


def learned_ranking(
    net: nn.Module,
    score: Score,
    budget: Any,
    *,
    example: Any,
    calibrate: Iterable[Any] = (),
    scores: ChannelScores | None = None,
    order: Literal["scores", "network"] = "scores",
    evaluations: int = 400,
    population: int = 64,
    tournament: int = 16,
    path: str | Path | None = None,
    seed: int = 0,
    latency: LatencyTable | None = None,
    progress: bool | Listener = False,
) -> ChannelScores:
    """Learn one order of all channels of a network, from which plans for every budget follow.

    The scores of each group get a scale and a shift of their own. Evolution finds those by which the best channels
    within the budget have the least loss. Sort the network by the result, then `search(..., method="ranking")` cuts it
    at one threshold for each budget, the narrower plans within the wider ones.

    Args:
        net: a slimmable network; it is not changed.
        score: (net) -> a number, lower is better: the loss on held-out training images. It is given a copy of the
            network, sorted.
        budget: the smallest one that the ranking is for; see `slimlib.search`.
        example: an input (or a tuple of arguments) of the size that costs are counted for.
        calibrate: inputs for the BatchNorm statistics of each candidate, other ones than `score` uses.
        scores: what is scaled and shifted; by default the squared norms of `channel_scores`.
        order: "scores", the best of a group are those of the highest score; "network", its leading ones, for a network
            that was trained to be slimmed: its units are given the scores of their group from high to low.
        evaluations: rankings that are tried, one after another.
        population: how many of the last rankings may be the parent of the next.
        tournament: the parent is the best of so many random ones of them.
        path: a JSON file of what was scored. With it an interrupted call resumes, with the same result.
        seed: of the random choices.
        latency: the table that a budget in milliseconds needs; see `slimlib.search`.
        progress: True shows a bar; a function is called with a `Progress`.

    Returns:
        Scores in the order of the network's units, which compare between groups.

    Raises:
        ValueError: the budget cannot be read or met, a score is not finite, BatchNorm lacks `calibrate`, scores or file
            are of another network, or an argument is impossible.

    Source: Chin et al. 2020 (LeGR), sec. 3.2 and algorithm 1; numbers of their published code.
    """
    if order not in ("scores", "network"):
        raise ValueError(f"order={order!r} does not exist; choose 'scores' or 'network'")
    options = Options("ranking", "cost", 2, evaluations, population, seed)
    if not is_whole(tournament, 1) or tournament > population:
        raise ValueError(f"tournament={tournament!r} must be from 1 to the population of {population}")
    scores = channel_scores(net) if scores is None else scores
    check_is(ChannelScores, "what channel_scores returned", scores=scores)
    scores.check(slimming_of(net).layout)
    falling = tuple(values.sort(descending=True, stable=True).values for values in scores.values)
    if order == "network":
        scores = ChannelScores(scores.by, scores.groups, falling)
    else:
        net = _sorted_copy(net, scores, example)
    check_batches("calibrate", calibrate)
    batches = tuple(calibrate)
    job = Job(net, read_budgets([budget]), example, options, batches=batches, latency=latency)
    space = job.space(steps=None, least=LEAST_RANKED)
    job.check_budgets(space)
    about = {**job.about(), "tournament": tournament, "order": order, "scores": [float(v.sum()) for v in falling]}
    with SearchFile(path, "ranking", job.layout, about) as file:
        evaluation = Evaluation(net, score, batches, seed=seed)
        run = Run(evaluation, file, listener=listener_of(progress))

        def loss(affine: Affine) -> float:
            plan = space.channels(cut(space, affine.of(falling), job.amounts[0])[None])[0]
            return run.scores([tuple(plan.tolist())])[0]

        best = _evolved(falling, loss, options, tournament, run.tell)
        file.finish({"scale": best.scale.tolist(), "shift": best.shift.tolist()})
    return ChannelScores("learned", scores.groups, tuple(best.of(scores.values)))


@dataclass(frozen=True, eq=False)
class Affine:
    """How the scores of each group are changed, so that they compare: times `scale`, plus `shift`, both [groups]."""

    scale: Tensor
    shift: Tensor

    def of(self, values: Sequence[Tensor]) -> list[Tensor]:
        return [v * a + b for v, a, b in zip(values, self.scale, self.shift, strict=True)]


def _evolved(
    values: Sequence[Tensor],
    loss: Callable[[Affine], float],
    options: Options,
    tournament: int,
    tell: Callable[[float, float], None],
) -> Affine:
    """Aging evolution: the oldest goes, and the next is a mutated winner of a tournament."""
    generator = torch.Generator().manual_seed(options.seed)
    spread = torch.stack([v.std(correction=0) for v in values])
    pool: deque[tuple[float, Affine]] = deque(maxlen=options.population)
    best: tuple[float, Affine] | None = None
    for number in range(options.evaluations):
        if number == 0:
            child = Affine(torch.ones_like(spread), torch.zeros_like(spread))
        elif number < options.population:
            every = torch.ones_like(spread, dtype=torch.bool)
            child = _mutated(Affine(torch.ones_like(spread), torch.zeros_like(spread)), every, 1.0, spread, generator)
        else:
            picked = torch.randperm(len(pool), generator=generator)[:tournament].tolist()
            parent = min((pool[i] for i in picked), key=lambda one: one[0])[1]
            some = torch.rand(len(spread), generator=generator) < MUTATED
            some[int(torch.randint(len(spread), (), generator=generator))] = True
            done = (number - options.population) / max(options.evaluations - options.population, 1)
            child = _mutated(parent, some, 1 - (1 - LAST_STEP) * done, spread, generator)
        pool.append((loss(child), child))
        if best is None or pool[-1][0] < best[0]:
            best = pool[-1]
        tell((number + 1) / options.evaluations, best[0])
    assert best is not None
    return best[1]


def _mutated(parent: Affine, which: Tensor, step: float, spread: Tensor, generator: torch.Generator) -> Affine:
    """Scales times the exponential of a normal number, shifts plus one, where `which` says so."""
    factor, shift = torch.randn(2, len(spread), generator=generator, dtype=torch.double)
    return Affine(
        torch.where(which, parent.scale * torch.exp(step * factor), parent.scale),
        torch.where(which, parent.shift + spread * shift, parent.shift),
    )


def _sorted_copy(net: nn.Module, scores: ChannelScores, example: Any) -> nn.Module:
    sorted_net = copy.deepcopy(net)
    slimming = slimming_of(sorted_net)
    slimming.trained = None  # a copy that is thrown away: nothing to warn of
    sort_channels(sorted_net, scores, example=None if slimming.layout.followed else example)
    return sorted_net
