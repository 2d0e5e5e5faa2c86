"""A training as the user and the tracker follow it: its steps, and at the end its scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.records.folder import ResultsFolder
from benchmarks.running.progress import Reporter
from benchmarks.running.trackers.tracking import Plain, Tracked, Tracking
from benchmarks.settings.run import RunSettings
from benchmarks.settings.tracker import Points
from tasks.points import PointResult
from tasks.task import Task
from tasks.training.recipe import Recipe


class Followed:
    """One training. Without a tracker its steps are shown to the user alone."""

    def __init__(self, reporter: Reporter, tracking: Tracking | None) -> None:
        self._reporter, self._tracking = reporter, tracking

    def step(self, done: int, value: float) -> None:
        """`done` steps of all networks of the recipe are done."""
        self._reporter.step(done, value)
        if self._tracking is not None:
            self._tracking.step(done, value)

    def finish(self, results: Sequence[PointResult]) -> None:
        """The networks are scored, and recorded."""
        if self._tracking is not None:
            self._tracking.finish(final_scores(results))


@contextmanager
def following(
    settings: RunSettings, task: Task, recipe: Recipe, name: str, reporter: Reporter, *, tracked: bool
) -> Iterator[Followed]:
    """Follow a training.

    Args:
        name: of the training, and of its record.
        tracked: whether by a tracker, too, if the settings have one.
    """
    if not tracked or not isinstance(settings.tracker, Points):
        yield Followed(reporter, None)
        return
    run = Tracked(
        name=name,
        group="/".join(settings.folder.relative_to(settings.results).parts),
        settings=flat({"recipe": recipe.settings(), "task": settings.deciding, "steps": settings.steps}),
        follows=task.follows,
        steps=recipe.steps(task, settings.steps),
        cache=ResultsFolder(settings.folder).cache.absolute(),
    )
    tracking = Tracking(settings.tracker, run, reporter.note)
    try:
        yield Followed(reporter, tracking)
    finally:
        tracking.close()


def final_scores(results: Sequence[PointResult]) -> dict[str, float]:
    """Every score under a name of its own: `psnr/Set5/width 0.25`."""
    return {
        f"{metric}/{dataset}/{result.label}": value
        for result in results
        for dataset, values in result.metrics.items()
        for metric, value in values.items()
    }


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Plain]:
    """Nested settings under dotted names, as text where they are no number."""
    found: dict[str, Plain] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return found
