"""What can be chosen in each group: files where content decides, classes where code does."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks.settings.launcher import LAUNCHERS
from benchmarks.settings.task import TASKS, settings_of
from benchmarks.settings.tracker import TRACKERS
from tasks.settings import Settings, unknown

CONF = Path(__file__).parent.parent / "conf"
GROUPS = ("task", "data", "ablation", "scale", "launcher", "tracker")
USUAL = {"task": "sr", "ablation": "sandwich", "scale": "tiny", "launcher": "serial", "tracker": "tensorboard"}
"""What is chosen unless a command line says otherwise; data: what the scale has for the task."""
CODE: Mapping[str, Mapping[str, Any]] = {"task": TASKS, "launcher": LAUNCHERS, "tracker": TRACKERS}


def choices(group: str) -> list[str]:
    """The names that a group offers."""
    return sorted(CODE[group] if group in CODE else (path.stem for path in (CONF / group).glob("*.yaml")))


def check_choice(group: str, name: object) -> None:
    """Raise ValueError, with the nearest right one, where a group has no such choice."""
    if name not in choices(group):
        raise unknown(group, name, choices(group))


def question(group: str, name: str) -> str:
    """What a choice answers, or what it is."""
    if group in CODE:
        return (inspect.getdoc(model_of(group, name)) or "").splitlines()[0]
    said = content(group, name)
    return str(said["about"] if group == "data" else said["question"])


def model_of(group: str, name: str) -> type[Settings]:
    """The keys of a choice that needs code."""
    model: type[Settings] = settings_of(name) if group == "task" else CODE[group][name]
    return model


@cache
def content(group: str, name: str) -> Mapping[str, Any]:
    """What a file of a group says, before anything is filled in; `like`: the file that says the rest."""
    found = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"), resolve=False)
    assert isinstance(found, dict)
    said = {str(key): value for key, value in found.items()}
    return {**content(group, said.pop("like")), **said} if "like" in said else said
