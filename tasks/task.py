"""What a task says of itself, so that one runner serves them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

import slimlib as slim
from tasks.points import PointResult, Scores
from tasks.training.per_input import RuleFinder, rule_of, train_per_input
from tasks.training.planned import train_planned
from tasks.training.problem import Problem
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun
from tasks.training.supervised import train_recipe
from tasks.training.tuned import train_tuned


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
        figure: of matplotlib; None: there is none.
        files: what else is written beside it, by name; a name may have folders.
    """

    figure: Any = None
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOut:
    """Evaluation inputs of one size, to look at what a network does with them.

    Attributes:
        inputs: as they enter the network, [N, 3, H, W]; targets: what `Problem.loss` takes for them.
        pixels: what they look like, [N, 3, H, W] in [0, 1]; None: they may not be shown.
    """

    inputs: Tensor
    targets: Any
    pixels: Tensor | None


class Task(Protocol):
    """What the runner, tables, figures and captions ask of every task.

    Attributes:
        name: for example "sr".
        dataset: what it trains on, as a caption says it.
        protocol: how it is evaluated, as a sentence for captions.
        metrics: the first is what figures and findings are about.
        eval_sets: what is scored separately, in the order of the tables.
        widths: which are evaluated.
        step_unit: what a step of its training is.
        follows: the number that progress shows beside the steps.
    """

    name: str
    dataset: str
    protocol: str
    metrics: tuple[Metric, ...]
    eval_sets: tuple[str, ...]
    widths: tuple[float, ...]
    step_unit: str
    follows: str

    def example(self) -> Any:
        """An input that the cost is counted for, batch size one: a tensor, or any structure of tensors."""
        ...

    def baselines(self) -> dict[str, Scores]:
        """What needs no training and is a row of every table, by name: {"bicubic": ...}; may be empty."""
        ...

    def check_run(self, precision: str, ranks: int) -> None:
        """Raise ValueError where its networks cannot be trained in a precision, or by so many processes together."""
        ...

    def train(self, recipe: Recipe, run: TrainingRun) -> list[PointResult]:
        """Train and score all networks of a recipe, from the checkpoint of the run if there is one.

        Returns:
            A result for each operating point, cheapest first: the same whether or not the run was interrupted,
            and the same on every rank.

        Raises:
            Interrupted: `run.watch.stop` asked for it.
            TrainingFailed: the loss or a score is not finite.
            HostileCheckpointError: the checkpoint would run code.
        """
        ...

    def keep(self, trained: Any, recipe: Recipe, path: Path) -> None:
        """Write what `watch.trained` was given, for `show`: to `path` with endings of its own."""
        ...

    def show(self, recipe: Recipe, path: Path) -> Showcase | None:
        """What the network that `keep` wrote puts out; None where there is nothing to see."""
        ...


class SupervisedTask(Problem):
    """A task that learns from batches of inputs and targets: a subclass says what `Problem` asks, the rest is here."""

    name: str
    dataset: str
    protocol: str
    metrics: tuple[Metric, ...]
    eval_sets: tuple[str, ...]
    step_unit = "steps"
    follows = "loss"
    rule_finder: type[RuleFinder] = RuleFinder

    def baselines(self) -> dict[str, Scores]:
        """None; see `Task.baselines`."""
        return {}

    def check_run(self, precision: str, ranks: int) -> None:
        """The shards of all ranks must be equal: the mean of their losses is then that of the batch."""
        if self.batch % ranks:
            raise ValueError(
                f"a batch of {self.batch} cannot be shared out evenly among {ranks} processes; "
                f"use a multiple of {ranks}, or another --nproc-per-node"
            )

    def train(self, recipe: Recipe, run: TrainingRun) -> list[PointResult]:
        """By the training loop that all supervised tasks share; see `Task.train`."""
        if recipe.per_input is not None:
            return train_per_input(self, recipe, run, self.rule_finder)
        if recipe.tune is not None:
            return train_tuned(self, recipe, run)
        return (train_recipe if recipe.budgets is None else train_planned)(self, recipe, run)

    def keep(self, trained: nn.Module, recipe: Recipe, path: Path) -> None:
        """Write the slimmable network to `<path>.safetensors`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        slim.save(trained, _network(path), recipe={"name": recipe.name, **recipe.settings()})

    def show(self, recipe: Recipe, path: Path) -> Showcase | None:
        """What the network that `keep` wrote puts out at each of its widths."""
        net = slim.load(_network(path), into=recipe.build(self)).eval()
        if recipe.per_input is not None:
            return self.show_widths(net, rule_of(self, recipe, net, self.rule_finder))
        return self.showcase({point.label: partial(point.run, net) for point in recipe.points(self)})

    def held_out(self, count: int) -> HeldOut:
        """So many evaluation inputs, or as many as there are; always the same.

        Raises:
            ValueError: its inputs are no images of one size.
        """
        raise ValueError(f"task={self.name} has no images of one size to look at")

    def show_widths(self, net: nn.Module, rule: Any) -> Showcase | None:
        """Inputs by the width that a rule gives them; None where there is nothing to see."""
        return None

    def showcase(self, nets: Mapping[str, Callable[..., Any]]) -> Showcase | None:
        """The networks' outputs, labelled by their keys; None where there is nothing to see."""
        return None


def _network(path: Path) -> Path:
    return path.with_name(f"{path.name}.safetensors")
