"""Which items each training step sees: epochs without end, as a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np


def sampled(n: int, batch: int, steps: range, seed: int) -> Iterator[list[int]]:
    """Which of `n` images each training step sees: epochs without end, each in its own random order.

    A step's batch is a pure function of (seed, step). Epochs follow each other without a gap, so that every batch
    is full; the one in which an epoch ends may hold an image twice.

    Args:
        n: number of images.
        batch: of them in a step.
        steps: whose batches are wanted, counted from 0.
        seed: of the orders.

    Raises:
        ValueError: `n` or `batch` is below 1.
    """
    if n < 1 or batch < 1:
        raise ValueError(f"batches of {batch} of {n} images: there must be at least one of each")
    return (_stretch(n, step * batch, (step + 1) * batch, seed) for step in steps)


def _stretch(n: int, start: int, end: int, seed: int) -> list[int]:
    """A piece of the endless row of epochs."""
    drawn: list[int] = []
    while start < end:
        epoch, offset = divmod(start, n)
        piece = _order(n, seed, epoch)[offset : offset + end - start]
        drawn += piece.tolist()
        start += len(piece)
    return drawn


@lru_cache(maxsize=2)  # drawn once an epoch: 20 ms for ImageNet
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)
