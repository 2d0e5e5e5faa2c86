"""How hard narrow widths that learn from a teacher pull at the weights they share: `python -m benchmarks.pull task=sr`.

Choices and keys are those of benchmarks.run; unless another is named, those of ablation=distillation. Each recipe
with students is trained anew. At evenly spaced steps the gradient of its data and that of its students are taken apart,
on one batch, at the weights that every width uses. Table and figure go to results/<task>/pull/<scale>/, with what was
measured of each recipe, which the same command does not measure again.
"""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import slimlib as slim
from benchmarks.analysis.ablation import shown_name
from benchmarks.analysis.figures import LINES, STYLE, image_files, make_logarithmic
from benchmarks.analysis.grid import Grid, markdown
from benchmarks.running.command import DONE, command, say
from benchmarks.running.jobs import Job, plan
from benchmarks.running.progress import reporter_on
from benchmarks.settings.run import RunSettings, read_settings
from benchmarks.settings.task import make_task
from slimlib.core.setting import slimming_of
from slimlib.training.distillation import Lessons
from slimlib.training.rule import Rule
from tasks.atomic import write_atomically
from tasks.task import Metric, SupervisedTask
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun, Watch, derive_seed
from tasks.training.scoring import score
from tasks.training.supervised import Loop, Training, start, train_network

ABLATION, POINTS = "distillation", 40


class Pull(BaseModel):
    """Two gradients on the weights that all widths share, before a step.

    Attributes:
        data, students: their L2 norms.
        cosine: of the angle between them; NaN where one is nothing.
    """

    step: int
    data: float
    students: float
    cosine: float

    @property
    def ratio(self) -> float:
        """How many times the data's the students' is."""
        return self.students / self.data if self.data else math.inf


class Pulled(BaseModel):
    """What was measured of a recipe: over its training, and its first metric at each width, by its name."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    recipe: str
    seed: int
    pulls: list[Pull]
    scores: dict[str, float]

    @property
    def at_full_width(self) -> float:
        """Its score at the largest width."""
        return list(self.scores.values())[-1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure recipes; returns the exit code, as `benchmarks.running.command` has them."""
    return command(arguments, __doc__, read, _work, interrupted="the same command goes on with the recipe it was at")


def read(given: Sequence[str]) -> RunSettings:
    """The settings that the words describe.

    Raises:
        ValueError: in one line: a key or value is wrong, or no network of the task is trained by a rule of its own.
    """
    words = list(given)
    if not any(word.startswith("ablation=") for word in words):
        words.append(f"ablation={ABLATION}")
    settings = read_settings(words)
    if settings.task == "rl":
        raise ValueError("task=rl: policies are trained by stable-baselines3; see ablation=stability of benchmarks.run")
    if not any(taught(job) for job in plan(settings)):
        raise ValueError(f"no recipe of ablation={settings.ablation} has students; take ablation=distillation")
    return settings


def taught(job: Job) -> bool:
    """Whether narrow widths of the recipe learn from a teacher, in one training."""
    recipe = job.recipe
    plain = recipe.kind == "slimmable" and recipe.search is None and recipe.per_input is None
    return plain and any(lesson.taught_by for lesson in recipe.lessons().all)


def _work(settings: RunSettings) -> int:
    torch.set_num_threads(settings.threads)
    task, console = make_task(settings.task, settings.task_settings), Console()
    assert isinstance(task, SupervisedTask)
    name, _, *deeper = settings.folder.relative_to(settings.results).parts
    folder = settings.results.joinpath(name, "pull", *deeper)
    found = []
    for job in filter(taught, plan(settings)):
        place = folder / "recipes" / f"{job.name}.json"
        if not place.exists() or settings.overwrite == "always":
            with reporter_on(console) as reporter:
                reporter.start(job.label, settings.steps, task.follows)
                device = torch.device(settings.device)
                run = TrainingRun(
                    settings.steps, job.seed, device=device, precision=settings.precision, watch=Watch(reporter.step)
                )
                pulled = measure(task, job.recipe, run)
                reporter.finish(f"{job.label}: measured")
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, pulled.model_dump_json(indent=1) + "\n")
        found.append(Pulled.model_validate_json(place.read_text()))
    about = (
        f"Task {settings.task}, trained on {task.dataset}, {settings.steps:,} steps (scale {settings.scale}). "
        "Gradients of a training batch, at the weights of the narrowest width, which every width uses. "
        "Curves are running medians of five batches."
    )
    for file, content in written(found, task, about).items():
        write_atomically(folder / file, content)
    say(console, f"Table and figure: {folder}")
    return DONE


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
    places = shared_by_all(net, rule)

    def gradient(of: Rule) -> Tensor:
        state = rule.state_dict()
        with _nothing_changes(net):
            of.backward(net, inputs, lambda output: loop.task.loss(output, target), autocast=loop.autocast)
            found = [
                parameter.grad[place] if parameter.grad is not None else torch.zeros_like(parameter)[place]
                for parameter, place in places
            ]
            flat = torch.cat([part.flatten().double() for part in found])
        rule.load_state_dict(state)  # so that the next draws the same widths
        return flat

    data = gradient(rule.taught(_of_data_alone(rule.lessons)))
    students = gradient(rule) - data
    norms = float(data.norm()), float(students.norm())
    cosine = float(data @ students) / (norms[0] * norms[1]) if all(norms) else math.nan
    return Pull(step=step, data=norms[0], students=norms[1], cosine=cosine)


def shared_by_all(net: nn.Module, rule: Rule) -> list[tuple[nn.Parameter, Tensor]]:
    """Each parameter that the narrowest width uses, and where, as a mask of its shape."""
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    with slim.at_width(net, rule.widths.smallest):
        seen = [
            view.sum()
            for part in slimming_of(net).parts
            for slot in part.slots
            if isinstance(view := getattr(part.module, slot.name, None), Tensor) and view.requires_grad
        ]
        held = {id(slot.store[slot.name]) for part in slimming_of(net).parts for slot in part.slots}
        full = [parameter.sum() for parameter in parameters if id(parameter) not in held]
        ones = torch.autograd.grad(torch.stack([*seen, *full]).sum(), parameters, allow_unused=True)
    return [(p, used != 0) for p, used in zip(parameters, ones, strict=True) if used is not None]


@contextmanager
def _nothing_changes(net: nn.Module) -> Iterator[None]:
    """Within, gradients begin at nothing; after it gradients, buffers and random numbers are as if it had not been."""
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    net.zero_grad(set_to_none=True)
    with torch.random.fork_rng():
        yield
    net.zero_grad(set_to_none=True)
    for buffer, value in buffers:
        buffer.data.copy_(value)


def _of_data_alone(lessons: Lessons) -> Lessons:
    """The same, but what a student learns from its teacher counts nothing."""
    largest, between, smallest = (
        replace(lesson, distill=_nothing) if lesson.distill is not None else lesson for lesson in lessons.all
    )
    return Lessons(between, smallest, largest)


def _nothing(student: Any, _: Any) -> Tensor:
    return 0 * sum((leaf.sum() for leaf in tree_leaves(student)), torch.zeros(()))


@dataclass(frozen=True)
class _Part:
    """A third of the training: its name, and the pulls of it."""

    name: str
    pulls: list[Pull]


def _parts(pulls: Sequence[Pull]) -> list[_Part]:
    """The first step, the first half after it, and the second half."""
    half = (len(pulls) + 1) // 2
    parts = [_Part("at the first step", list(pulls[:1])), _Part("first half", list(pulls[1:half]))]
    return [part for part in (*parts, _Part("second half", list(pulls[half:]))) if part.pulls]


def written(found: Sequence[Pulled], task: SupervisedTask, about: str) -> dict[str, bytes | str]:
    """What is written of the recipes, by file name."""
    metric = task.metrics[0]
    head = ["recipe", *(f"pull {part.name}" for part in _parts(found[0].pulls)), "cosine"]
    head += [f"{shown_name(metric)} at {point}" for point in found[0].scores]
    rows = [
        [one.recipe, *(f"{_middle(part.pulls):.2g}" for part in _parts(one.pulls)), f"{_cosine(one):.2f}"]
        + [f"{score:.2f}" for score in one.scores.values()]
        for one in found
    ]
    finding = _finding(found, metric)
    grid = Grid("Gradient of the students over that of the data (medians)", head, rows)
    tidy = pd.DataFrame([{"recipe": one.recipe, "seed": one.seed} | p.model_dump() for one in found for p in one.pulls])
    files = {f"figure.{kind}": image for kind, image in drawn(found, finding).items()}
    return files | {
        "table.md": f"# {finding}\n\n{about}\n\n{markdown(grid)}\n",
        "table.csv": tidy.to_csv(index=False),
    }


def _finding(found: Sequence[Pulled], metric: Metric) -> str:
    """The pull of the recipe that ends best at full width beside that of the one that ends worst."""
    ordered = sorted(found, key=lambda one: one.at_full_width, reverse=metric.better == "higher")
    told = []
    for one in dict.fromkeys((0, len(ordered) - 1)):
        recipe, late = ordered[one], _parts(ordered[one].pulls)[-1].pulls
        pull = f"its students pull {_middle(late):.2g} times as hard as the data"
        told.append(f"'{recipe.recipe}' ends at {recipe.at_full_width:.2f} {metric.unit}, where {pull}")
    return "; ".join(told).replace(" ,", ",")


def _middle(pulls: Sequence[Pull]) -> float:
    return float(pd.Series([pull.ratio for pull in pulls]).median())


def _cosine(one: Pulled) -> float:
    return float(pd.Series([pull.cosine for pull in one.pulls]).mean())


def drawn(found: Sequence[Pulled], finding: str) -> dict[str, bytes]:
    """The ratio of the gradients, and the cosine between them, over the training."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.2), layout="constrained")
        ratio, cosine = figure.subplots(1, 2)
        for number, one in enumerate(found):
            colour, dashes = LINES[number % len(LINES)], ("-", "--", ":")[number // len(LINES) % 3]
            steps = [pull.step for pull in one.pulls]
            style = {"color": colour, "linestyle": dashes, "linewidth": 1.3}
            ratio.plot(steps, _smooth([pull.ratio for pull in one.pulls]), label=_label(one, found), **style)
            cosine.plot(steps, _smooth([pull.cosine for pull in one.pulls]), **style)
        make_logarithmic(ratio, "y")
        ratio.axhline(1, color="0.45", linestyle=":", linewidth=1)
        ratio.set_title("norm: students over data", fontsize=9)
        cosine.axhline(0, color="0.45", linestyle=":", linewidth=1)
        cosine.set_title("cosine between them", fontsize=9)
        for panel in (ratio, cosine):
            panel.set_xlabel("step")
        figure.legend(loc="outside lower center", ncols=min(3, len(found)), frameon=False, fontsize=8)
        figure.suptitle("\n".join(textwrap.wrap(finding, 95)), fontsize=9)
        return image_files(figure)


def _smooth(values: Sequence[float]) -> Sequence[float]:
    """The running median of five."""
    return [float(value) for value in pd.Series(values).rolling(5, center=True, min_periods=1).median()]


def _label(one: Pulled, found: Sequence[Pulled]) -> str:
    return one.recipe if len({other.seed for other in found}) == 1 else f"{one.recipe}, seed {one.seed}"


if __name__ == "__main__":
    sys.exit(main())
