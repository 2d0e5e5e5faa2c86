"""A sign of progress where `convert` takes long."""

from __future__ import annotations

import sys
import time

PATIENCE = 5.0  # seconds without one


class Progress:
    """A line on the terminal, or in a notebook, that tells where a long search is; it goes when that ends."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.shown = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.length = 0

    def tell(self, attempt: int, place: str) -> None:
        """Say which attempt begins, and where the one before failed."""
        if self.shown and (seconds := time.monotonic() - self.begin) > PATIENCE:
            where = f", after '{place}'" if place else ""
            self._show(f"convert: {seconds:.0f} s, attempt {attempt + 1} to slim all that can{where}")

    def _show(self, line: str) -> None:
        sys.stderr.write(f"\r{line:{self.length}}\r")
        sys.stderr.flush()
        self.length = len(line)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.length:
            self._show("")
