"""One seed decides everything: those of data, weights and widths derive from it."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, purpose: str) -> int:
    """A seed in [0, 2**31) that is unrelated for each purpose, and the same on every machine."""
    digest = hashlib.sha256(f"{purpose} of {seed}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
