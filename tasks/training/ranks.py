"""This process among those that train one network together, as torchrun starts them: one for each GPU, or on CPUs."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import TypeVar, cast

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

WAIT = timedelta(hours=2)
"""The longest that a rank waits for another, which may be scoring a network or drawing the figures."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Shard:
    """The part of every batch that this process trains: its items `index`, `index + count`, ..."""

    index: int = 0
    count: int = 1


WHOLE = Shard()


class LostRank(Exception):
    """Another rank has ended, or cannot be reached."""

    def __str__(self) -> str:
        return "another rank has ended; its error says why"


@dataclass(frozen=True)
class Ranks:
    """Which of `count` processes this one is. A single process is the first of one, and never waits.

    Every rank calls the same methods in the same order. An error that all of them raise together is one
    that they can go on from (`can_go_on`). After an error of its own a rank has to end, since the others wait
    for it forever; they then raise LostRank.
    """

    index: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the first, which alone writes files and speaks to the user."""
        return self.index == 0

    @property
    def shard(self) -> Shard:
        """The part of every batch that is this rank's."""
        return Shard(self.index, self.count)

    def device(self, name: str) -> torch.device:
        """The device of this rank, where `name` is "cpu" or "cuda": each has a GPU of its own, the current one.

        Raises:
            ValueError: there are fewer GPUs than processes on this machine.
        """
        if self.count == 1 or name != "cuda":
            return torch.device(name)
        own, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= there:
            raise ValueError(
                f"torchrun has started more processes on this machine than it has GPUs, {there}; "
                f"use --nproc-per-node {there}, or device=cpu"
            )
        torch.cuda.set_device(own)
        return torch.device(name, own)

    def first(self, work: Callable[[], Result]) -> Result:
        """What the first rank gets from the work, which it alone does; an error is raised on every rank."""
        if self.count == 1:
            return work()
        result, error = _attempt(work) if self.leads else (None, None)
        sent = [(result, _portable(error))]
        with _others():
            distributed.broadcast_object_list(sent, src=0)
        if not self.leads:
            result, error = sent[0]
        if error is not None:
            raise error
        return cast(Result, result)

    def together(self, work: Callable[[], Result]) -> Result:
        """What this rank gets from work that all of them do; an error on one is raised on every rank."""
        if self.count == 1:
            return work()
        result, error = _attempt(work)
        errors = self._all(_portable(error))
        errors[self.index] = error
        for found in errors:
            if found is not None:
                raise found
        return cast(Result, result)

    def gathered(self, work: Callable[[], Result]) -> list[Result]:
        """What each rank gets from work that all of them do; an error on one is raised on every rank."""
        return self._all(self.together(work))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Whether each of the flags is set on any rank."""
        if self.count == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.int32)
        with _others():
            distributed.all_reduce(votes, distributed.ReduceOp.MAX)
        return tuple(vote > 0 for vote in votes.tolist())

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each of the values over the ranks."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with _others():
            distributed.all_reduce(total)
        return [value / self.count for value in total.tolist()]

    def wrap(self, net: nn.Module, *, some_unused: bool) -> nn.Module:
        """The network to train with, whose gradients are the mean over the ranks; with the weights of the first.

        Args:
            net: the same on every rank; it keeps its own state_dict keys.
            some_unused: a pass may leave parameters without a gradient.
        """
        if self.count == 1:
            return net
        return DistributedDataParallel(net, find_unused_parameters=some_unused)

    def share_buffers(self, net: nn.Module) -> None:
        """Give all ranks the buffers of the first: the BatchNorm statistics of its own shards, and not of theirs."""
        if self.count > 1:
            with _others():
                for buffer in net.buffers():
                    distributed.broadcast(buffer, src=0)

    def can_go_on(self, error: Exception) -> bool:
        """Whether the next work can begin after an error, since every rank has raised it."""
        return self.count == 1 or getattr(error, "on_every_rank", False)

    def _all(self, own: Result) -> list[Result]:
        if self.count == 1:
            return [own]
        everyone: list[Result | None] = [None] * self.count
        with _others():
            distributed.all_gather_object(everyone, own)
        return cast(list[Result], everyone)


ALONE = Ranks()


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """Join the other processes that torchrun has started; without torchrun, alone.

    All that was computed with torch.distributed must be gone at the end of the block. Where the block is
    left by an error, the other ranks may be anywhere, and the caller has to end the process.
    """
    ranks = ranks_of(environment)
    if ranks.count == 1:
        yield ranks
        return
    # Its functions take the default group there is at their import as a default argument. DistributedDataParallel
    # imports it: later than this, they would keep the group alive until the exit, which then aborts now and then.
    import_module("torch.distributed.nn")
    # With both, numbers and objects go over the CPU, and only gradients and buffers wait for the GPU.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=WAIT)
    yield ranks
    gc.collect()  # networks that are still wrapped hold the group, too
    ranks.any(False)  # all are here
    distributed.destroy_process_group()


def ranks_of(environment: Mapping[str, str]) -> Ranks:
    """What torchrun, or any launcher with the same variables, says of this process."""
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return ALONE
    return Ranks(int(environment["RANK"]), int(environment["WORLD_SIZE"]))


@contextmanager
def _others() -> Iterator[None]:
    """What torch.distributed raises in the block is that another rank is gone."""
    try:
        yield
    except RuntimeError as error:
        raise LostRank from error


def _attempt(work: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        error.on_every_rank = True  # type: ignore[attr-defined]
        return None, error


def _portable(error: Exception | None) -> Exception | None:
    """The error, or one that says the same where it cannot be pickled."""
    try:
        return cast(Exception | None, pickle.loads(pickle.dumps(error)))
    except Exception:  # pickle raises whatever the class of the error does
        same = RuntimeError(f"{type(error).__name__}: {error}")
        same.on_every_rank = True  # type: ignore[attr-defined]
        return same
