"""Runs of Weights & Biases, kept in the folder's cache where they cannot be sent."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import wandb

from benchmarks.running.trackers.tracking import Tracked
from benchmarks.settings.tracker import Wandb


class WandbRun:
    """A run of a project."""

    def __init__(self, tracker: Wandb, run: Tracked, id_: str) -> None:
        self.id = id_
        self._steps = run.steps
        self._run = wandb.init(
            project=tracker.project,
            name=run.name,
            id=id_,
            group=run.group,
            config=dict(run.settings),
            dir=str(run.cache),
            mode="online" if tracker.online else "offline",
            resume="allow",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, save_code=False),
        )

    def tell(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, finals: Mapping[str, float] | None) -> None:
        if finals is not None:
            self._run.summary.update(dict(finals))
        self._run.finish(exit_code=0 if finals is not None else 1)


def open_run(tracker: Wandb, run: Tracked, before: str | None) -> WandbRun:
    """The run that was interrupted, or a new one."""
    return WandbRun(tracker, run, before or secrets.token_hex(4))
