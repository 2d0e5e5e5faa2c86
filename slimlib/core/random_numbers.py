"""Random numbers of its own for a block: what is drawn in it changes nothing of what is drawn afterwards."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributions import Distribution


@contextmanager
def own_random_numbers(seed: int | None = None) -> Iterator[None]:
    """Within the block the global generators of torch, NumPy and Python may be drawn from and seeded.

    Args:
        seed: they begin with it; None: they go on from where they are.
    """
    numpy = sys.modules.get("numpy")
    python, arrays = random.getstate(), numpy.random.get_state() if numpy else None
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=gpus):
        if seed is not None:
            random.seed(seed)
            torch.default_generator.manual_seed(seed)  # torch.manual_seed notes a stack trace for each idle device
            if gpus:
                torch.cuda.manual_seed_all(seed)
            if numpy:
                numpy.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            if numpy:
                numpy.random.set_state(arrays)


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Within the block what a forward draws from does not look at its parameters, which may have shapes alone."""
    checked = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(checked)
