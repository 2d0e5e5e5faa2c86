"""A run of the toy task, also as a process: `-m tests.benchmarks.running.toy_run <results> <slow> <launcher>`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.analysis.results import Results
from benchmarks.runner import run
from benchmarks.settings.launcher import Joblib, Launcher, Ray, Serial, Slurm
from benchmarks.settings.run import RunSettings
from benchmarks.tables import writing
from tasks.training.recipe import Recipe
from tests.tasks.training.toy import ToyTask

RECIPES = (
    Recipe("individual", kind="individual"),
    Recipe("random", range=(0.5, 1.0), rule="random", samples=2, calibrate=2),
    Recipe("sandwich", range=(0.5, 1.0), rule="sandwich", samples=3, calibrate=2),
)


Files = dict[str, bytes]


def drawing_once(draw: Callable[[Results, str], Files]) -> Callable[[Results, str], Files]:
    """Draws equal records once in a process: that takes longer than to train the toy, and gives equal bytes."""
    drawn: dict[str, Files] = {}

    def draw_new(results: Results, finding: str) -> Files:
        known = [finding, *(record.model_dump_json(exclude={"seconds", "commit"}) for record in results.records)]
        key = "\n".join(known)
        if key not in drawn:
            drawn[key] = draw(results, finding)
        return drawn[key]

    return draw_new


writing.figure = drawing_once(writing.figure)


def toy_launcher(name: str, jobs: int = 2) -> Launcher:
    """A launcher by its name; Slurm is played by processes of this machine."""
    many = {"joblib": Joblib(jobs=jobs), "ray": Ray(jobs=jobs), "slurm": Slurm(jobs=jobs, cluster="local")}
    return Serial() if name == "serial" else many[name]


def toy_settings(results: Path, *, launcher: str = "serial", jobs: int = 2, **changes: Any) -> RunSettings:
    """Three recipes, two seeds, six steps."""
    plain: dict[str, Any] = {
        "task": "toy",
        "task_settings": {"width": 16},
        "data": "noise",
        "default_data": "noise",
        "ablation": "sandwich",
        "question": "Which widths?",
        "recipes": RECIPES,
        "scale": "tiny",
        "steps": 6,
        "seeds": (0, 1),
        "results": results,
        "launcher": toy_launcher(launcher, jobs),
        "checkpoint_seconds": 0.0,
    }
    return RunSettings(**plain | changes)


def toy_run(settings: RunSettings, **task: Any) -> int:
    """The exit code."""
    return run(settings, partial(ToyTask, **task), Console(width=200))


if __name__ == "__main__":
    results, slow, launcher = sys.argv[1:]
    sys.exit(toy_run(toy_settings(Path(results), launcher=launcher, jobs=2), slow=float(slow)))
