"""Runs of trackio, in the folder's cache."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from benchmarks.running.trackers.tracking import Tracked
from benchmarks.settings.tracker import Trackio


class TrackioRun:
    """A run of a project; trackio knows it by its name."""

    def __init__(self, opened: Any, run: Tracked) -> None:
        self.id = run.name
        self._opened, self._steps = opened, run.steps

    def tell(self, values: Mapping[str, float], step: int) -> None:
        self._opened.log(dict(values), step=step)

    def close(self, finals: Mapping[str, float] | None) -> None:
        if finals is not None:
            self.tell(finals, self._steps)
        self._opened.finish()


def open_run(tracker: Trackio, run: Tracked, before: str | None) -> TrackioRun:
    """The run that was interrupted, or a new one."""
    os.environ.setdefault("TRACKIO_DIR", str(run.cache / "trackio"))  # read when it is imported
    import trackio

    opened = trackio.init(
        project=tracker.project,
        name=run.name,
        group=run.group,
        config=dict(run.settings),
        resume="never" if before is None else "allow",
        embed=False,
        auto_log_cpu=False,
        auto_log_gpu=False,
    )
    return TrackioRun(opened, run)
