"""The gradients of data and students of one recipe, over its training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimlib.core.setting import in_use
from slimlib.training.distillation import Lessons
from slimlib.training.rule import Rule
from slimlib.training.step import buffers_stay
from tasks.task import SupervisedTask
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun, derive_seed
from tasks.training.scoring import score
from tasks.training.supervised import Loop, Training, start, train_network

POINTS = 40
"""Steps at which a training is looked at."""
WINDOW = 16
"""Updates of a policy in a row that are looked at: whether their gradients agree."""


class Pull(BaseModel):
    """Two gradients on the weights that all widths share, before a step.

    Attributes:
        data, students: their L2 norms.
        cosine: of the angle between them; NaN where one is nothing.
        agreement_of_data, agreement_of_students: of the gradients of several steps in a row, of which the others are
            means: the length of their sum over the sum of their lengths, 1 where all are alike, NaN where all are
            nothing; None: not measured.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    step: int
    data: float
    students: float
    cosine: float
    agreement_of_data: float | None = None
    agreement_of_students: float | None = None

    @property
    def ratio(self) -> float:
        """How many times the data's the students' is."""
        return self.students / self.data if self.data else math.inf


class Pulled(BaseModel):
    """What was measured of a recipe: over its training, and its first metric at each width, by its name."""

    model_config = ConfigDict(ser_json_inf_nan="strings")  # and `Pull` has its own, which this one does not reach

    recipe: str
    seed: int
    pulls: list[Pull]
    scores: dict[str, float]

    @property
    def at_full_width(self) -> float:
        """Its score at the largest width."""
        return list(self.scores.values())[-1]


def measure(task: SupervisedTask, recipe: Recipe, run: TrainingRun) -> Pulled:
    """Train a recipe, and take its gradients apart at `POINTS` steps, which changes nothing of the training."""
    pulls: list[Pull] = []
    every = max(1, run.steps // POINTS)

    def look(step: int, loss: float) -> None:
        run.watch.step(step, loss)
        if step % every == 0 and step < run.steps:
            pulls.append(pull(loop, training, step))

    loop = Loop(task, recipe, replace(run, watch=replace(run.watch, step=look)))
    training = start(loop, None)
    pulls.append(pull(loop, training, 0))
    train_network(loop, training)
    results = score(task, recipe, training.net, None, seed=run.seed, device=run.device)
    metric = task.metrics[0].name
    scores = {result.point: result.metrics[task.eval_sets[0]][metric] for result in results}
    return Pulled(recipe=recipe.name, seed=run.seed, pulls=pulls, scores=scores)


def pull(loop: Loop, training: Training, step: int) -> Pull:
    """The two gradients before a step, of the batch that it trains with; nothing of the training changes."""
    net, rule, run = training.net, training.rule, loop.run
    assert rule is not None
    net.train()
    seed = derive_seed(run.seed, "data")
    inputs, target = next(loop.task.batches(range(step, step + 1), seed, device=run.device))
    places = list(in_use(net, rule.widths.smallest).items())  # every width uses them

    def gradient(of: Rule) -> Tensor:
        state = rule.state_dict()
        with _nothing_changes(net):
            of.backward(net, inputs, lambda output: loop.task.loss(output, target), autocast=loop.autocast)
            flat = gradient_at(places)
        rule.load_state_dict(state)  # so that the next draws the same widths
        return flat

    data = gradient(rule.taught(_of_data_alone(rule.lessons)))
    students = gradient(rule) - data
    return Pull(
        step=step, data=float(data.norm()), students=float(students.norm()), cosine=cosine_between(data, students)
    )


def gradient_at(places: Iterable[tuple[nn.Parameter, Tensor]]) -> Tensor:
    """The gradient that parameters have at their places, in one row, in double precision; zeros where there is none."""
    parts = [torch.zeros_like(p)[place] if p.grad is None else p.grad[place] for p, place in places]
    return torch.cat([part.flatten().double() for part in parts])


def cosine_between(one: Tensor, other: Tensor) -> float:
    """Of the angle between two gradients; NaN where one is nothing."""
    norms = float(one.norm()) * float(other.norm())
    return float(one @ other) / norms if norms else math.nan


@contextmanager
def _nothing_changes(net: nn.Module) -> Iterator[None]:
    """Within, gradients begin at nothing; after it gradients, buffers and random numbers are as if it had not been."""
    net.zero_grad(set_to_none=True)
    with torch.random.fork_rng(), buffers_stay(net):
        yield
    net.zero_grad(set_to_none=True)


def _of_data_alone(lessons: Lessons) -> Lessons:
    """The same, but what a student learns from its teacher counts nothing."""
    largest, between, smallest = (
        replace(lesson, distill=_nothing) if lesson.distill is not None else lesson for lesson in lessons.all
    )
    return Lessons(between, smallest, largest)


def _nothing(student: Any, _: Any) -> Tensor:
    outputs = [leaf for leaf in tree_leaves(student) if isinstance(leaf, Tensor)]  # a detector's also hold its heads
    return 0 * sum((output.sum() for output in outputs if output.requires_grad), torch.zeros(()))
