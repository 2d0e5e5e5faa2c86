"""Interleaved timing: what is compared runs in turns, so that a busy machine slows all of it alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

CPU = torch.device("cpu")
Times = dict[str, list[float]]
Clock = Callable[[], float]  # seconds
cpu_time: Clock = time.process_time  # of all threads: a runtime may compute in one of its own
SLICE = 0.02  # seconds that one turn should at least take


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    def over(self, count: int) -> Spread:
        """Of one of `count` equal parts."""
        return Spread(self.median / count, self.low / count, self.high / count)

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return Spread(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, low, high)


def take_turns(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: torch.device = CPU,
    clock: Clock | None = None,
) -> Times:
    """Seconds that one call of each takes, once a round, in an order that alternates.

    On a CPU the time of this thread: what other processes do counts only as far as they share caches and memory.
    On a GPU the time until it has done all calls of a turn. `clock` is another one.
    """
    clock = clock or partial(_now, device)
    for run in runs.values():
        run()
    calls = {name: max(1, round(SLICE / max(_seconds(run, 1, clock), 1e-6))) for name, run in runs.items()}
    times: Times = {name: [] for name in runs}
    order = list(runs)
    for _ in range(rounds):
        for name in order:
            times[name].append(_seconds(runs[name], calls[name], clock))
        order.reverse()
    return times


def ratio(times: Times, numerator: str, denominator: str) -> Spread:
    """Median and quartiles over the rounds of how many times longer one took than the other."""
    pairs = zip(times[numerator], times[denominator], strict=True)
    return Spread.of([a / b for a, b in pairs])


def in_turn(runs: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """One call that makes all of these."""

    def run() -> None:
        for each in runs:
            each()

    return run


def typical(seconds: Sequence[float]) -> float:
    """The median, as one of the values."""
    return sorted(seconds)[len(seconds) // 2]


def _seconds(run: Callable[[], object], calls: int, clock: Clock) -> float:
    began = clock()
    for _ in range(calls):
        run()
    return (clock() - began) / calls


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.thread_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
