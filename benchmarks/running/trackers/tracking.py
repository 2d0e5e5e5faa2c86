"""Tell a tracker how a training goes, without ever slowing it, changing it or ending it."""

from __future__ import annotations

import json
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from benchmarks.settings.tracker import Points
from tasks.atomic import write_atomically

WAITING = 1000  # points; a tracker that is further behind loses some
PATIENCE = 20.0  # seconds that the end of a training waits for its tracker

Plain = str | int | float | bool


@dataclass(frozen=True)
class Tracked:
    """A training, as trackers show it.

    Attributes:
        name: of the run.
        group: what it is compared within.
        settings: what it was made with.
        follows, steps: the number that each step logs, and how many there are.
        cache: the folder that local files go to.
    """

    name: str
    group: str
    settings: Mapping[str, Plain]
    follows: str
    steps: int
    cache: Path


class Sink(Protocol):
    """A run that a tracker has opened."""

    id: str
    """By which it is opened again."""

    def tell(self, values: Mapping[str, float], step: int) -> None:
        """Points at a step."""

    def close(self, finals: Mapping[str, float] | None) -> None:
        """The run is finished with these numbers; or, None, interrupted, and will be opened again."""


class Tracking:
    """One training and its tracker, which has a thread of its own: a slow or dead server delays nothing.

    A run that was interrupted goes on as the same run, and no point is logged twice.

    Args:
        tracker: which.
        run: what.
        note: called once if the tracker fails; the training goes on without it.
    """

    def __init__(self, tracker: Points, run: Tracked, note: Callable[[str], None]) -> None:
        self._tracker, self._run, self._note = tracker, run, note
        self._file = run.cache / "tracking" / tracker.name / f"{run.name}.json"
        self._known = _read(self._file)
        self._told = -1 if self._known is None else int(self._known["step"])
        self._at = -math.inf
        self._queue: queue.Queue[tuple[int, float] | None] = queue.Queue(WAITING)
        self._finals: Mapping[str, float] | None = None
        self._thread: threading.Thread | None = None

    def step(self, done: int, value: float) -> None:
        """`done` steps are done."""
        now = time.monotonic()
        early = now - self._at < self._tracker.seconds and done < self._run.steps
        if done <= self._told or early or not math.isfinite(value):
            return
        self._at, self._told = now, done
        self._put((done, value))

    def finish(self, finals: Mapping[str, float]) -> None:
        """The training has ended with these numbers."""
        self._finals = finals
        self._start()

    def close(self) -> None:
        """Wait a moment until everything is logged."""
        if self._thread is None:
            return
        self._put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._note(f"tracker={self._tracker.name} does not answer; the last points may be missing there")

    def _put(self, point: tuple[int, float] | None) -> None:
        self._start()
        with suppress(queue.Full):
            self._queue.put_nowait(point)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._tell, name=f"tracker={self._tracker.name}", daemon=True)
            self._thread.start()

    def _tell(self) -> None:
        try:
            module = import_module(f"benchmarks.running.trackers.to_{self._tracker.name}")
            before = None if self._known is None else str(self._known["run"])
            sink: Sink = module.open_run(self._tracker, self._run, before)
            while (point := self._queue.get()) is not None:
                step, value = point
                self._write(sink, step)  # before: a point may be lost by a crash, and none told twice
                sink.tell({self._run.follows: value}, step)
            sink.close(self._finals)
            if self._finals is not None:
                self._write(sink, self._run.steps, finished=True)
        except BaseException as error:  # of whatever a tracker's package and its server raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            self._note(f"tracker={self._tracker.name} failed ({reason}); the training goes on without it")

    def _write(self, sink: Sink, step: int, *, finished: bool = False) -> None:
        write_atomically(self._file, json.dumps({"run": sink.id, "step": step, "finished": finished}) + "\n")


def _read(path: Path) -> dict[str, Any] | None:
    """What is known of a run that was interrupted; None where there is none, or the file is damaged."""
    try:
        known: dict[str, Any] = json.loads(path.read_text())
        return None if known["finished"] else {"run": str(known["run"]), "step": int(known["step"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
