"""How far the fault tests go: a short form in every run of the tests, a long one with NIGHTLY=1."""

from __future__ import annotations

import os
import random

from tests.extent import NIGHTLY

LONG = NIGHTLY
KILLS = 20 if LONG else 3
EXAMPLES = int(os.environ.get("FAULTS_EXAMPLES", "20000" if LONG else "50"))


def chance() -> random.Random:
    """Random moments and places, of FAULTS_SEED; the long form draws other ones each time, and prints the seed."""
    seed = int(os.environ.get("FAULTS_SEED", random.SystemRandom().randrange(10**6) if LONG else 0))
    print(f"FAULTS_SEED={seed}")
    return random.Random(seed)
