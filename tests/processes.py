"""Processes that begin as copies of this one, which has imported everything already."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp

import torch

FORK = get_context("fork")


class Forked(FORK.Process):
    """Does `work` and ends with the code that it returns; `communicate`, as a `subprocess.Popen` has it."""

    def __init__(self, work: Callable[[], int]) -> None:
        super().__init__()
        self._work, self._said = work, Path(mkdtemp())
        self.start()

    def run(self) -> None:
        torch.set_num_threads(1)  # a copy has none of the threads that torch began
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = (self._said / name).open("w")
            os.dup2(file.fileno(), number)
            setattr(sys, name, file)
        sys.exit(self._work())

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it said on stdout and stderr, once it has ended."""
        self.join(timeout)
        assert self.exitcode is not None, f"it has not ended within {timeout} s"
        out, err = ((self._said / name).read_text() for name in ("stdout", "stderr"))
        return out, err
