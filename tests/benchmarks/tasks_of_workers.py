"""Toy tasks that act on the process that trains them; in a small module, which each worker has to import."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.task import CPU, WHOLE, Shard
from tests.tasks.toy import ToyTask


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


class Deadly(ToyTask):
    """Kills the process that builds an individual network."""

    def build(self, width: float = 1.0, *, norm: str = "batch") -> Any:
        if width == 0.75:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().build(width)
