"""The trackers that a run can choose, and their settings, checked when composed."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from tasks.choices import check_choice, check_keys, check_number

PROJECT = "slimlib"


@dataclass(frozen=True)
class Tracker:
    """What all trackers share.

    Attributes:
        seconds: at least so many between two points of a training.
    """

    name: ClassVar[str] = "none"
    extra: ClassVar[str] = ""

    seconds: float = 0.5

    def __post_init__(self) -> None:
        check_number("tracker.seconds", self.seconds, lambda s: s >= 0, "a number of seconds, at least 0")
        for key in ("project", "uri"):
            value = getattr(self, key, PROJECT)
            if value is not None and (not isinstance(value, str) or not value):
                raise ValueError(f"tracker.{key}={value!r} must be a word")

    def check_here(self) -> None:
        """Raise ValueError where the tracker's package is missing."""
        if self.name != "none" and find_spec(self.name) is None:
            raise ValueError(
                f"tracker={self.name} needs the package {self.name}: pip install -e '.[bench,{self.extra}]', "
                "or choose tracker=none"
            )

    def about(self, cache: Path) -> str:
        """Where the user finds what is tracked; empty where nothing is."""
        return ""


@dataclass(frozen=True)
class NoTracker(Tracker):
    """Nothing but the lines on the screen."""


NO_TRACKER = NoTracker()


@dataclass(frozen=True)
class TensorBoard(Tracker):
    """Event files in the folder's cache."""

    name: ClassVar[str] = "tensorboard"
    extra: ClassVar[str] = "bench"

    def about(self, cache: Path) -> str:
        return f"to watch: tensorboard --logdir {cache / 'tensorboard'}"


@dataclass(frozen=True)
class Wandb(Tracker):
    """Weights & Biases.

    Attributes:
        mode: online, offline, or auto: online where there is an API key.
    """

    name: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "wandb"

    project: str = PROJECT
    mode: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("tracker.mode", self.mode, ("auto", "online", "offline"))

    @property
    def online(self) -> bool:
        """Whether points are sent, and not only kept."""
        return self.mode == "online" or (self.mode == "auto" and _has_wandb_key())

    def about(self, cache: Path) -> str:
        if self.online:
            return f"to watch: project {self.project} of Weights & Biases"
        kept = f"{cache / 'wandb'}/offline-*"
        why = "as tracker.mode says" if self.mode == "offline" else "no API key, see wandb login"
        return f"tracked offline ({why}); to upload: wandb sync {kept}"


@dataclass(frozen=True)
class Mlflow(Tracker):
    """MLflow.

    Attributes:
        uri: of the server; None: as MLFLOW_TRACKING_URI says, else the folder's cache.
        project: MLflow calls it an experiment.
    """

    name: ClassVar[str] = "mlflow"
    extra: ClassVar[str] = "mlflow"

    project: str = PROJECT
    uri: str | None = None

    def place(self, cache: Path) -> str:
        """The server, or the store."""
        return (
            self.uri
            or os.environ.get("MLFLOW_TRACKING_URI")
            or f"sqlite:///{(cache / 'mlflow' / 'runs.db').absolute()}"
        )

    def about(self, cache: Path) -> str:
        return f"to watch: mlflow ui --backend-store-uri {self.place(cache)}"


@dataclass(frozen=True)
class Trackio(Tracker):
    """trackio, in the folder's cache."""

    name: ClassVar[str] = "trackio"
    extra: ClassVar[str] = "trackio"

    project: str = PROJECT

    def about(self, cache: Path) -> str:
        return f"to watch: TRACKIO_DIR={(cache / 'trackio').absolute()} trackio show --project {self.project}"


TRACKERS: Mapping[str, type[Tracker]] = {kind.name: kind for kind in (NoTracker, TensorBoard, Wandb, Mlflow, Trackio)}


def read_tracker(given: Mapping[str, Any]) -> Tracker:
    """The tracker that plain settings describe.

    Raises:
        ValueError: a key or value is wrong, or its package is missing.
    """
    plain = dict(given)
    name = plain.pop("name", None)
    check_choice("tracker", name, TRACKERS)
    kind = TRACKERS[name]
    check_keys(f"tracker={name}", plain, kind)
    tracker = kind(**plain)
    tracker.check_here()
    return tracker


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
