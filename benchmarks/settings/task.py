"""The tasks that a run can choose, made from plain settings."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.settings.files import files_digest
from tasks.settings import Settings, unknown

if TYPE_CHECKING:  # it imports torch, which help does without
    from tasks.task import Task

TASKS = {
    "sr": ("SrSettings", "SuperResolution"),
    "classification": ("ClassificationSettings", "Classification"),
    "detection": ("DetectionSettings", "Detection"),
    "rl": ("RlSettings", "ReinforcementLearning"),
}
"""The classes of each task in tasks/<name>/settings.py and tasks/<name>/task.py, imported when it is chosen."""

PLACES = ("root", "eval_sets", "weights")  # keys that say where on this machine the data lie
CONVENIENCES = ("cache_gb", "workers", "video")  # keys that change speed, and nothing of the result
COMMITTED = ("7690c60abf4b", "b5ee763167aa")
"""Digests of what the records in results/ were made on, which are older than digests: T91, BSD200, Set5, Set14 and B100
without loss, and the JPEG copy of CIFAR-10."""


def settings_of(name: str) -> type[Settings]:
    """The keys of a task."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    model: type[Settings] = getattr(import_module(f"tasks.{name}.settings"), TASKS[name][0])
    return model


def read_task(name: str, settings: Mapping[str, Any]) -> Settings:
    """The settings of a task, checked; no data are read.

    Raises:
        ValueError: in one line: a key or value is wrong, or a package is missing.
    """
    try:
        return settings_of(name)(**settings)
    except ModuleNotFoundError as error:
        raise ValueError(f"task={name} needs the package {error.name}: pip install -e '.[bench,{name}]'") from error


def make_task(name: str, settings: Mapping[str, Any]) -> Task:
    """The task, its data found and readable."""
    checked = read_task(name, settings)
    task: Task = getattr(import_module(f"tasks.{name}.task"), TASKS[name][1])(checked)
    return task


def deciding(task: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of a task's settings decides the result, the same on every machine.

    Of a place only the last name; beside it, as `files`, a digest of what lies there. There is none of data that are
    not there, so that tables can be made without them, and none of those in `COMMITTED`.

    Raises:
        ValueError: what lies there cannot be read.
    """
    kept = {key: value for key, value in settings.items() if key not in CONVENIENCES}
    for key in PLACES:
        if isinstance(kept.get(key), str):
            kept[key] = Path(kept[key]).name
        elif key in kept:
            kept[key] = [Path(place).name for place in kept[key]]
    if not any(kept.get(key) for key in PLACES):
        return kept
    try:
        places = read_task(task, settings).places()
        digest = files_digest(places) if any(place.exists() for place in places) else ""
    except (OSError, RuntimeError) as error:  # a user who does not exist, a name that is too long
        raise ValueError(f"data={settings['data']} cannot be listed: {error}") from error
    return kept | {"files": digest} if digest and digest not in COMMITTED else kept
