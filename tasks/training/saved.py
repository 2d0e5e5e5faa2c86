"""What the checkpoint of a recipe holds: its finished networks, and the one in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.points import PointResult
from tasks.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Saved:
    """The results of the finished networks, and the state of the next one, if it had begun."""

    finished: int = 0
    results: Sequence[PointResult] = ()
    training: Mapping[str, Any] | None = None

    def state(self) -> dict[str, Any]:
        """Plain values and tensors; `read_saved` reads them."""
        results = [asdict(result) for result in self.results]
        return {"finished": self.finished, "results": results, "training": self.training}


class UnusableState(Exception):
    """The state of a training does not fit the network that it is of."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


def read_saved(checkpoint: Checkpoint | None) -> Saved:
    """What a checkpoint holds; nothing where there is none, or none that can be used, which is set aside."""
    state = None if checkpoint is None else checkpoint.read()
    if state is None or checkpoint is None:
        return Saved()
    try:
        results = [PointResult(**result) for result in state["results"]]
        if state["finished"] != len(results):  # one of each finished network: a slimmable one has none before its end
            raise ValueError("its results are not those of its finished networks")
        return Saved(len(results), results, state["training"])
    except (KeyError, TypeError, ValueError) as error:
        checkpoint.set_aside(error)
        return Saved()
