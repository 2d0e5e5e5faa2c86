"""A toy task that tells which processes train it; in a small module, which each worker has to import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from tasks.training.problem import CPU
from tasks.training.ranks import WHOLE, Shard
from tests.tasks.training.toy import ToyTask


class SaysWhere(ToyTask):
    """Each process that trains leaves a file `<its id>-<step>` for each batch."""

    def __init__(self, place: Path, *, slow: float) -> None:
        super().__init__(slow=slow)
        self.place = place

    def batches(
        self, steps: range, seed: int, *, device: torch.device = CPU, shard: Shard = WHOLE, augmented: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        self.place.mkdir(parents=True, exist_ok=True)
        for step, batch in enumerate(super().batches(steps, seed, device=device, shard=shard, augmented=augmented)):
            (self.place / f"{os.getpid()}-{step if augmented else 0}").touch()
            yield batch
