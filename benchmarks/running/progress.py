"""How a run shows its progress: a live bar on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Reporter(Protocol):
    """Follows the recipes of a run, one after another."""

    def start(self, label: str, steps: int, follows: str = "loss") -> None:
        """A recipe begins or goes on; `follows` names the number that its steps tell."""

    def step(self, done: int, value: float) -> None:
        """`done` of its steps are done."""

    def note(self, text: str) -> None:
        """Something a user should know."""

    def finish(self, text: str) -> None:
        """The recipe ended; `text` says how."""


class LineReporter:
    """Plain lines: one every `every` seconds, for logs and for several processes."""

    def __init__(self, console: Console, *, every: float = 30.0) -> None:
        self.console = console
        self.every = every
        self._label, self._follows, self._steps = "", "", 0
        self._began = self._last = time.monotonic()
        self._first: int | None = None

    def start(self, label: str, steps: int, follows: str = "loss") -> None:
        self._label, self._follows, self._steps, self._first = label, follows, steps, None
        self._began = self._last = time.monotonic()
        self._print(f"{label}: {steps} steps")

    def step(self, done: int, value: float) -> None:
        now = time.monotonic()
        if self._first is None or now < self._last:  # it has begun, or the clock was set back
            self._first, self._began, self._last = done, now, min(now, self._last)
        if now - self._last < self.every:
            return
        self._last = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        left = f", {_duration((self._steps - done) / rate)} left" if rate > 0 else ""
        self._print(f"{self._label}: step {done}/{self._steps}, {_told(self._follows, value)}{left}")

    def note(self, text: str) -> None:
        self._print(f"{self._label}: {text}" if self._label else text)

    def finish(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveReporter:
    """A bar with recipe, step, loss and time left. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[value]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._follows = ""

    def __enter__(self) -> LiveReporter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, label: str, steps: int, follows: str = "loss") -> None:
        self._follows = follows
        self._task = self._bar.add_task(label, total=steps, value=f"{follows} -")

    def step(self, done: int, value: float) -> None:
        assert self._task is not None
        self._bar.update(self._task, completed=done, value=_told(self._follows, value))

    def note(self, text: str) -> None:
        self._print(text)

    def finish(self, text: str) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        self._print(text)

    def _print(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def reporter_on(console: Console) -> Iterator[Reporter]:
    """A bar on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield LineReporter(console)
        return
    with LiveReporter(console) as live:
        yield live


def _told(what: str, value: float) -> str:
    return f"{what} {value:.4g}" if math.isfinite(value) else f"{what} -"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
