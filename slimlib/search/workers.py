"""Score plans in several processes at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch import nn

from slimlib.core.width import is_whole
from slimlib.search.chain import Plan
from slimlib.search.evaluation import Evaluation


def check_workers(workers: int, net: nn.Module) -> None:
    """Raise ValueError for a number of processes that cannot be had here."""
    if not is_whole(workers, 1):
        raise ValueError(f"workers={workers!r} must be a whole number of processes, at least 1")
    if workers == 1:
        return
    if "fork" not in multiprocessing.get_all_start_methods():
        raise ValueError("several workers need a system that can fork (Linux); use workers=1 here")
    if any(p.device.type != "cpu" for p in net.parameters()):
        raise ValueError("several workers need a network on the CPU: a forked process cannot use a GPU")


def scores_in_processes(evaluation: Evaluation, plans: Sequence[Plan], workers: int) -> Iterator[tuple[Plan, float]]:
    """Each plan with its score, as it comes; every process computes on one thread.

    Raises:
        ValueError: a score is not finite.
        RuntimeError: a process failed.
    """
    if workers == 1 or len(plans) < 2:
        yield from evaluation.scores(plans)
        return
    context = multiprocessing.get_context("fork")
    running: dict[Any, Any] = {}
    try:
        for part in _parts(evaluation.in_order(plans), workers):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(evaluation, part, there), daemon=True)
            process.start()
            there.close()
            running[here] = process
        while running:
            for ready in wait(list(running)):
                found = _received(ready)
                if found is None:
                    running.pop(ready).join()
                else:
                    yield found
    finally:
        for process in running.values():
            process.terminate()
            process.join()


def _parts(plans: Sequence[Plan], count: int) -> Iterator[Sequence[Plan]]:
    """Neighbours stay together, since they share most."""
    size, rest = divmod(len(plans), count)
    begin = 0
    for number in range(min(count, len(plans))):
        end = begin + size + (number < rest)
        yield plans[begin:end]
        begin = end


def _work(evaluation: Evaluation, plans: Sequence[Plan], results: Connection) -> None:
    torch.set_num_threads(1)  # the threads of the parent are not there in a fork
    try:
        for found in evaluation.scores(plans):
            results.send(found)
        results.send(None)
    except Exception as error:  # it is raised again in the parent
        results.send(error if isinstance(error, ValueError) else RuntimeError(f"{type(error).__name__}: {error}"))


def _received(results: Any) -> tuple[Plan, float] | None:
    try:
        found: tuple[Plan, float] | Exception | None = results.recv()
    except EOFError:
        raise RuntimeError("a process that scored plans ended before it was done; is there enough memory?") from None
    if isinstance(found, Exception):
        raise found
    return found
