"""The tasks that a run can choose, made from plain settings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of a task's settings decides the result, the same on every machine.

    Of a place only the last name; of a user's own folder also which files are in it.
    """
    kept = {key: value for key, value in settings.items() if key not in CONVENIENCES}
    for key in PLACES:
        if isinstance(kept.get(key), str):
            kept[key] = Path(kept[key]).name
        elif key in kept:
            kept[key] = [Path(place).name for place in kept[key]]
    if settings.get("data") == "folder":
        places = [settings["root"], *settings.get("eval_sets", ())]
        try:
            kept["files"] = files_digest([Path(place).expanduser() for place in places])
        except (OSError, RuntimeError) as error:  # a user who does not exist, a name that is too long
            raise ValueError(f"data=folder cannot be listed: {error}") from error
    return kept


def files_digest(folders: Iterable[Path]) -> str:
    """Of the names and sizes of all files below the folders; the same wherever they lie."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        digest.update(b"end of folder\n")
    return digest.hexdigest()[:12]
