"""What a search takes for each plan, and how well a table of layer times tells the times of plans."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import build, channel_rule
from benchmarks.perf.timing import Spread, ratio, take_turns, typical
from slimlib.core.setting import slimming_of
from slimlib.search.evaluation import Evaluation
from slimlib.search.space import Space, ladders

STEPS = 12  # a step of greedy is this part of a group's channels
BATCHES = 2  # that statistics are computed from, and as many to score on
ALONE, SHARED = 1.05, 0.6  # seconds of a plan over plain forwards of the same batches
ERROR = 10.0  # percent


def plan_evaluation(name: str, *, size: int, batch: int, rounds: int) -> Iterator[Measurement]:
    """Scoring the plans of greedy's first step, each alone and with what they share, over plain forwards.

    These are of the dense network on the same batches: with the statistics of the batch where a search computes some.
    """
    torch.manual_seed(0)
    batches = [torch.randn(batch, 3, size, size) for _ in range(2 * BATCHES)]
    labels = torch.randint(0, 1000, (batch,))
    dense = build(name)
    net = slim.convert(copy.deepcopy(dense), batches[0][:1], **channel_rule(dense)).eval()
    calibration, scored = batches[:BATCHES], batches[BATCHES:]

    def loss(model: nn.Module) -> float:
        return sum(F.cross_entropy(model(x), labels).item() for x in scored)

    plans = _first_step(net)
    runs = {"plain": _plain(dense, calibration, scored)} | {
        how: _evaluating(Evaluation(net, loss, calibration), plans, shared=how == "shared")
        for how in ("alone", "shared")
    }
    times = take_turns(runs, rounds=rounds)
    for how, limit in (("alone", ALONE), ("shared", SHARED)):
        value = ratio(times, how, "plain").over(len(plans))
        setting = f"greedy, {2 * BATCHES} batches of {batch}, {how}"
        # What can be shared depends on the network; the promise is about a plain chain.
        kept = limit if how == "alone" or name == "MobileNet v1" else None
        yield Measurement("plan evaluation", name, setting, value, limit=kept, seconds=typical(times["plain"]))


def _first_step(net: nn.Module) -> list[tuple[int, ...]]:
    layout = slimming_of(net).layout
    space = Space(layout, ladders(layout, STEPS), lambda channels: channels.sum(1).double())
    levels = space.neighbours(torch.zeros(space.groups, dtype=torch.long), 1)
    return [tuple(row) for row in space.channels(levels).tolist()]


def _plain(net: nn.Module, calibration: Sequence[Tensor], scored: Sequence[Tensor]) -> Callable[[], object]:
    @torch.no_grad()
    def run() -> None:
        for training, batches in ((True, calibration), (False, scored)):
            net.train(training)
            for x in batches:
                net(x)

    return run


def _evaluating(evaluation: Evaluation, plans: Sequence[tuple[int, ...]], *, shared: bool) -> Callable[[], object]:
    if not shared:
        evaluation.reuse = None
    return lambda: list(evaluation.scores(plans))


def latency_error(name: str, *, size: int, rounds: int) -> Measurement:
    """How far a table of layer times is off on 30 random plans of a network, at batch 1."""
    dense, example = build(name), torch.randn(1, 3, size, size)
    table = slim.latency_table(slim.convert(dense, example, **channel_rule(dense)), example, rounds=rounds)
    value = Spread.of([100 * abs(error) for error in table.errors])
    return Measurement("latency table error", name, f"30 random plans, {size} px", value, unit="%", limit=ERROR)
