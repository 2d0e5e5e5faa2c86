"""Runs as TensorBoard's event files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from benchmarks.running.trackers.tracking import Tracked
from benchmarks.settings.tracker import Points


class Events:
    """The event files of a run, in a folder of its name; each point is on the disk as soon as it is logged."""

    def __init__(self, run: Tracked) -> None:
        self.id = run.name
        self._run = run
        self._writer = SummaryWriter(run.cache / "tensorboard" / run.name)

    def tell(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def close(self, finals: Mapping[str, float] | None) -> None:
        if finals is not None:
            for summary in hparams(dict(self._run.settings), dict(finals)):
                self._writer._get_file_writer().add_summary(summary)
            self.tell(finals, self._run.steps)
        self._writer.close()


def open_run(tracker: Points, run: Tracked, before: str | None) -> Events:
    """A new run takes the place of a finished one of the same name."""
    if before is None:
        shutil.rmtree(run.cache / "tensorboard" / run.name, ignore_errors=True)
    return Events(run)
