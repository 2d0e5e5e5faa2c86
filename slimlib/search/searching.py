"""Search the channel numbers of a network for plans within budgets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from torch import nn

from slimlib.core.arguments import check_batches
from slimlib.core.width import WidthPlan
from slimlib.search.budgets import read_budgets
from slimlib.search.evaluation import Evaluation, Score
from slimlib.search.greedy import Per
from slimlib.search.job import Job, Options
from slimlib.search.latency_table import LatencyTable
from slimlib.search.methods import METHODS
from slimlib.search.plan_file import FoundPlan, FoundPlans, SearchFile, plan_to_json
from slimlib.search.progress import Listener, listener_of
from slimlib.search.run import Run
from slimlib.search.scores import ChannelScores
from slimlib.search.workers import check_workers

Method = Literal["greedy", "evolution", "ranking", "random", "uniform"]


def search(
    net: nn.Module,
    score: Score,
    budgets: Any,
    *,
    example: Any,
    method: Method = "greedy",
    calibrate: Iterable[Any] = (),
    path: str | Path | None = None,
    seed: int = 0,
    per: Per = "cost",
    steps: int = 12,
    evaluations: int = 500,
    population: int = 50,
    ranking: ChannelScores | None = None,
    start: WidthPlan | FoundPlan | None = None,
    latency: LatencyTable | None = None,
    workers: int = 1,
    progress: bool | Listener = False,
) -> FoundPlans:
    """Find channel numbers for each layer that score best within each budget.

    Args:
        net: a slimmable network, trained at several widths; it is not changed.
        score: (net) -> a number, lower is better: the loss on training images that were held out, the same at each
            call. It is called in eval mode, without gradients, with the width of a candidate set.
        budgets: what a plan may cost: a share of the multiply-adds in (0, 1], "300M macs", "4M params", "10 ms", or
            a `Budget`; one or several of one unit.
        example: an input (or a tuple of arguments) of the size that costs are counted for.
        method: "greedy" removes a few channels from one group at a time, where that costs least; "evolution" mutates
            and combines plans within the budget; "ranking" cuts `ranking` at one threshold and finishes greedily;
            "random" draws plans, the baseline for the same number of evaluations; "uniform" gives all groups one width.
        calibrate: inputs for the BatchNorm statistics of each candidate, other ones than `score` uses.
        path: a JSON file of what was scored and found. With it an interrupted search resumes, with the same result;
            `load_plans` reads it.
        seed: of random plans and of what `score` draws.
        per: "cost": greedy compares the rise of the score for the cost saved; "step": it ignores the cost, as
            published.
        steps: greedy, evolution and random change channels by this share of each group, rounded to its divisor.
        evaluations: plans that evolution and random score for each budget.
        population: plans of a generation of evolution.
        ranking: scores that compare between groups, from `learned_ranking` (by default the norms of `channel_scores`),
            of a network whose channels are sorted; only for "ranking".
        start: the plan that greedy and evolution start from, and the upper limit of ranking; by default the full
            network.
        latency: for budgets in milliseconds, the table from `latency_table`.
        workers: processes that score at the same time, each on one thread.
        progress: True shows a bar; a function is called with a `Progress`.

    Returns:
        `FoundPlans`, with the `FoundPlan` of each budget in the order given.

    Raises:
        ValueError: a budget cannot be read or met, a score is not finite, BatchNorm lacks `calibrate`, a ranking, plan,
            table or file belongs to another network, or an argument is impossible.
        TypeError: an argument is of another type than here.
        OSError: the file cannot be written.

    Source: Yu & Huang 2019 (AutoSlim); Chin et al. 2020 (LeGR).
    """
    if method not in list(METHODS):
        raise ValueError(f"method {method!r} does not exist; choose one of {', '.join(METHODS)}")
    check_workers(workers, net)
    options = Options(method, per, steps, evaluations, population, seed)
    check_batches("calibrate", calibrate)
    batches = tuple(calibrate)
    job = Job(
        net, read_budgets(budgets), example, options, batches=batches, ranking=ranking, start=start, latency=latency
    )
    with SearchFile(path, "search", job.layout, job.about()) as file:
        if file.result is None:
            evaluation = Evaluation(net, score, batches, seed=seed)
            evaluation.time_plain()
            run = Run(evaluation, file, workers, listener_of(progress))
            found = METHODS[method](job, run)
            file.finish([plan_to_json(one) for one in found], plain=evaluation.plain)
        return file.found()
