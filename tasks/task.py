"""What a supervised task says of itself, so that one training loop and one runner serve them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from slimlib.core.width import Width

Scores = dict[str, dict[str, float]]
"""Evaluation set -> metric name -> value."""


@dataclass(frozen=True)
class Metric:
    """A number that a network is judged by.

    Attributes:
        name: as in tables and records, for example "psnr".
        unit: for axes and captions, for example "dB"; "" where there is none.
        better: which direction is.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"] = "higher"


@dataclass(frozen=True)
class Showcase:
    """Pictures or videos that show what a network does.

    Attributes:
        figure: of matplotlib.
        files: what else is written beside it, by name; a name may have folders.
    """

    figure: Any
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """The part of every batch that this process trains: its items `index`, `index + count`, ..."""

    index: int = 0
    count: int = 1


WHOLE = Shard()
CPU = torch.device("cpu")


class Task(Protocol):
    """What tables, figures and captions ask of every task. The properties may be plain attributes."""

    @property
    def name(self) -> str:
        """Of the task, for example "sr"."""
        ...

    @property
    def dataset(self) -> str:
        """What it trains on, as a caption says it."""
        ...

    @property
    def protocol(self) -> str:
        """How it is evaluated, as a sentence for captions."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The first is what figures and findings are about."""
        ...

    @property
    def eval_sets(self) -> tuple[str, ...]:
        """What is scored separately, in the order of the tables."""
        ...

    @property
    def widths(self) -> tuple[float, ...]:
        """Which are evaluated."""
        ...

    def example(self) -> Tensor:
        """An input that the cost is counted for: [1, ...], batch size one."""
        ...

    def baselines(self) -> dict[str, Scores]:
        """What needs no training and is a row of every table, by name: {"bicubic": ...}; may be empty."""
        ...


class SupervisedTask(Task, Protocol):
    """A data set, a network and how to judge it: `tasks.training.supervised` trains it."""

    def build(self, width: float = 1.0, *, norm: str = "batch") -> nn.Module:
        """A dense network with the channels of `width`, freshly initialised from torch's global generator.

        Raises:
            ValueError: the task's networks have no such normalisation ("batch": as they come, or "group").
        """
        ...

    def channel_rule(self, net: nn.Module) -> Mapping[str, Any]:
        """How the channels of a network that `build` made are rounded: arguments of `slimlib.convert`."""
        ...

    def batches(
        self,
        steps: range,
        seed: int,
        *,
        device: torch.device = CPU,
        shard: Shard = WHOLE,
        augmented: bool = True,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Input and target of each of the training steps, on the device.

        Each is a pure function of (step, seed), so that a run resumes exactly; a shard of it holds those items of
        the whole batch. `augmented` False: the images as they are, for statistics.
        """
        ...

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """What the largest width learns from: a scalar."""
        ...

    def optimizer(self, net: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        """The optimizer, and its schedule over `steps` steps."""
        ...

    def evaluate(self, net: nn.Module, widths: Sequence[Width] | None = None) -> list[Scores]:
        """Scores of the network, in eval mode, at each of the widths; None: as it is, a list of one.

        The data are read and decoded once for all widths.
        """
        ...

    def showcase(self, nets: Mapping[str, Callable[[Tensor], Tensor]]) -> Showcase | None:
        """The networks' outputs, labelled by their keys; None where there is nothing to see."""
        ...


@runtime_checkable
class TrainsItself(Task, Protocol):
    """A task with a training of its own."""

    follows: str
    """What progress shows beside the steps, for example "loss"."""
    step_unit: str
    """What its steps are, for example "environment steps"."""

    def train(
        self,
        recipe: Any,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        checkpoint: Any,
        watch: Any,
    ) -> list[Any]:
        """Train and score all networks of a recipe; the arguments are those of `supervised.train_recipe`."""
        ...

    def keep(self, trained: Any, path: Path) -> None:
        """Write what `watch.trained` was given, so that `showcase_files` can show it."""
        ...

    def showcase_files(self, path: Path, widths: Sequence[float]) -> dict[str, bytes]:
        """Files for people to look at, by name, of what `keep` wrote at some widths; empty where it is not there."""
        ...
