"""The trackers that a run can choose, and their keys."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

from tasks.settings import Settings, setting

PROJECT = "slimlib"


class Tracker(Settings):
    """What all trackers share.

    Attributes:
        name: as a user chooses it, and its package.
        extra: what brings the package.
    """

    group: ClassVar[str] = "tracker"
    name: ClassVar[str]
    extra: ClassVar[str] = ""

    def check_here(self) -> None:
        """Raise ValueError where the tracker's package is missing."""
        if self.extra and find_spec(self.name) is None:
            raise ValueError(
                f"tracker={self.name} needs the package {self.name}: pip install -e '.[bench,{self.extra}]', "
                "or choose tracker=none"
            )

    def about(self, cache: Path) -> str:
        """Where the user finds what is tracked; empty where nothing is."""
        return ""


class NoTracker(Tracker):
    """On the screen alone."""

    name = "none"


class Points(Tracker):
    """What trackers share that are told of points of a training."""

    seconds: float = setting(0.5, "at least so many seconds between two points of a training", ge=0)


class TensorBoard(Points):
    """In TensorBoard: event files in cache/tensorboard of the results."""

    name = "tensorboard"
    extra = "bench"

    def about(self, cache: Path) -> str:
        return f"to watch: tensorboard --logdir {cache / 'tensorboard'}"


class Wandb(Points):
    """In Weights & Biases."""

    name = "wandb"
    extra = "wandb"

    project: str = setting(PROJECT, "project that the runs belong to", min_length=1)
    mode: Literal["auto", "online", "offline"] = setting("auto", "auto: online where there is an API key")

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


class Mlflow(Points):
    """In MLflow, on a server or in cache/mlflow of the results."""

    name = "mlflow"
    extra = "mlflow"

    project: str = setting(PROJECT, "what MLflow calls an experiment", min_length=1)
    uri: str | None = setting(
        None, "address of the server; null: as MLFLOW_TRACKING_URI says, else the results' cache", min_length=1
    )

    def place(self, cache: Path) -> str:
        """The server, or the store."""
        return (
            self.uri
            or os.environ.get("MLFLOW_TRACKING_URI")
            or f"sqlite:///{(cache / 'mlflow' / 'runs.db').absolute()}"
        )

    def about(self, cache: Path) -> str:
        return f"to watch: mlflow ui --backend-store-uri {self.place(cache)}"


class Trackio(Points):
    """In trackio's dashboard, kept in cache/trackio of the results."""

    name = "trackio"
    extra = "trackio"

    project: str = setting(PROJECT, "project that the runs belong to", min_length=1)

    def about(self, cache: Path) -> str:
        return f"to watch: TRACKIO_DIR={(cache / 'trackio').absolute()} trackio show --project {self.project}"


TRACKERS: Mapping[str, type[Tracker]] = {kind.name: kind for kind in (NoTracker, TensorBoard, Wandb, Mlflow, Trackio)}


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
