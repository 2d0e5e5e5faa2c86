"""How far a search has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from slimlib.core.width import check_is

BAR = 24  # characters
SECONDS_BETWEEN_LINES = 0.2


@dataclass(frozen=True)
class Progress:
    """How far a search has come.

    done: share of the way, in [0, 1].
    evaluations: plans that were scored.
    seconds: since the search began.
    score: of the plan that is held best now.
    """

    done: float
    evaluations: int
    seconds: float
    score: float

    def __str__(self) -> str:
        filled = round(BAR * self.done)
        bar = "#" * filled + "." * (BAR - filled)
        return f"[{bar}] {self.done:4.0%}  {self.evaluations} plans  {self.seconds:.0f} s  score {self.score:.4f}"


Listener = Callable[[Progress], None]


def listener_of(progress: object) -> Listener | None:
    """Who is told of the progress, where True means a bar.

    Raises:
        TypeError: it is neither that nor a function.
    """
    check_is(bool | Callable, "True, False or a function of a Progress", progress=progress)
    return ProgressBar() if progress is True else progress or None  # type: ignore[return-value]


class ProgressBar:
    """Shows progress on the standard error output, in one line where that is a terminal."""

    def __init__(self) -> None:
        self._shown = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if progress.done < 1 and now - self._shown < (SECONDS_BETWEEN_LINES if terminal else 60):
            return
        self._shown = now
        end = "\n" if progress.done >= 1 or not terminal else ""
        print(f"{chr(13) if terminal else ''}{progress}", end=end, file=sys.stderr, flush=True)
