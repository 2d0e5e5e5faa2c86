"""A sign of progress where `convert` takes long."""

from __future__ import annotations

import sys
import time

PATIENCE = 5.0  # seconds without one
BAR, LINE = 12, 79  # characters


class Progress:
    """A bar on the terminal, or in a notebook, that tells how far an attempt to convert is; it goes when all ends."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.shown = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.length = 0
        self.attempt = 1

    def tell(self, phase: str, share: float) -> None:
        """Say what begins now, and which share of the attempt is done."""
        if self.shown and (seconds := time.monotonic() - self.begin) > PATIENCE:
            bar = "#" * round(share * BAR)
            self._show(f"convert: [{bar:{BAR}}] {share:4.0%}, {seconds:.0f} s, attempt {self.attempt}: {phase}"[:LINE])

    def _show(self, line: str) -> None:
        sys.stderr.write(f"\r{line:{self.length}}\r")
        sys.stderr.flush()
        self.length = len(line)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.length:
            self._show("")
