"""The training of a recipe, as its surroundings see it: how long, where, and how it is followed and stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tasks.training.checkpoint import Checkpoint
from tasks.training.problem import CPU
from tasks.training.ranks import ALONE, Ranks

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written."""


class TrainingFailed(Exception):
    """Training gave nothing to record, for example because the loss is not a finite number."""

    on_every_rank = True  # the numbers that show it are the same on all ranks


def _nothing(*_: Any) -> None:
    return None


def _nothing_held(_: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Watch:
    """How the surroundings follow a run.

    Attributes:
        step: called with (steps done of all networks of the recipe, loss of the widest) after each step.
        stop: asked after each step; once true on any rank, a checkpoint is written and `Interrupted` raised.
        trained: called with (width or None, network) for each network when it is evaluated.
    """

    step: Callable[[int, float], None] = _nothing
    stop: Callable[[], bool] = lambda: False
    trained: Callable[[float | None, Any], None] = _nothing


@dataclass(frozen=True)
class TrainingRun:
    """How the networks of a recipe are trained.

    Where several ranks train, they train the same networks together, each on its shard of every batch, and
    the first writes the checkpoints. The result does not depend on how many they are, apart from BatchNorm,
    which normalises on each rank by that rank's shard.

    Attributes:
        steps: of the optimizer or of the environments, for each network of the recipe alike.
        seed: decides weights, data and random widths.
        device: where to train.
        precision: what the networks compute in while they train, of `PRECISIONS`; they are scored in float32.
        graphs: record the passes as CUDA graphs and replay them, where that can be done: several times faster for small
            networks on a GPU, and the same gradients. Batches must be of one size, and forwards without a part that
            depends on numbers which only the CPU knows.
        checkpoint: where the state is kept until the run is recorded; None: nowhere.
        trained: where the trained slimmable network, or the individual one of width 1, is kept, and taken from if it
            is there: recipes that only score it in other ways share it.
        first: how the network is trained that channels are chosen in; None: its results are not kept.
        tuning: where the scores are kept by which a recipe's hyperparameters are chosen; None: nowhere.
        alone: (what) -> held while something is made that other recipes share.
        watch: how the run is followed and stopped.
        ranks: the processes that train it.
    """

    steps: int
    seed: int
    device: torch.device = CPU
    precision: str = "float32"
    graphs: bool = False
    checkpoint: Checkpoint | None = None
    trained: Checkpoint | None = None
    first: TrainingRun | None = None
    tuning: Path | None = None
    alone: Callable[[str], AbstractContextManager[None]] = _nothing_held
    watch: Watch = Watch()
    ranks: Ranks = ALONE


def derive_seed(seed: int, purpose: str) -> int:
    """A seed in [0, 2**31) that is unrelated for each purpose, and the same on every machine.

    One seed decides everything: those of data, weights and widths derive from it.
    """
    digest = hashlib.sha256(f"{purpose} of {seed}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
