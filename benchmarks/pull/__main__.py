"""How hard narrow widths that learn from a teacher pull at the weights they share: `python -m benchmarks.pull task=sr`.

Choices and keys are those of benchmarks.run; unless another is named, those of ablation=distillation. Each recipe
with students is trained anew. At evenly spaced steps the gradient of its data and that of its students are taken apart,
on one batch, at the weights that every width uses; of policies, whose own loss stands for the data, on 16 updates in a
row, and whether these agree. Table and figure go to results/<task>/pull/<scale>/, with what was measured of each
recipe, which the same command does not measure again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from rich.console import Console

from benchmarks.pull.measuring import WINDOW, Pulled, measure
from benchmarks.pull.writing import written
from benchmarks.running.command import DONE, command, say
from benchmarks.running.jobs import Job, plan
from benchmarks.running.progress import reporter_on
from benchmarks.settings.run import RunSettings, read_settings
from benchmarks.settings.task import make_task
from tasks.atomic import write_atomically
from tasks.task import SupervisedTask, Task
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun, Watch

ABLATION = "distillation"
OF_POLICIES = (
    f"Each point is of {WINDOW} updates in a row. What narrow widths learn from data, where they do, counts with the "
    "students. "
)


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
    if settings.task_settings.get("algorithm") == "sac":
        raise ValueError("task.algorithm=sac updates critics and actor apart; choose from ppo, a2c, dqn")
    if not any(taught(job) for job in plan(settings)):
        raise ValueError(f"no recipe of ablation={settings.ablation} has students; use ablation=distillation")
    return settings


def taught(job: Job) -> bool:
    """Whether narrow widths of the recipe learn from a teacher, in one training, and their gradients are added up."""
    recipe = job.recipe
    plain = recipe.kind == "slimmable" and recipe.search is None and recipe.per_input is None
    return plain and recipe.stability != "clip" and any(lesson.taught_by for lesson in recipe.lessons().all)


def _work(settings: RunSettings) -> int:
    torch.set_num_threads(settings.threads)
    task, console = make_task(settings.task, settings.task_settings), Console()
    folder = settings.folder_of("pull")
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
                pulled = _measured(task, job.recipe, run)
                reporter.finish(f"{job.label}: measured")
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, pulled.model_dump_json(indent=1) + "\n")
        found.append(Pulled.model_validate_json(place.read_text()))
    several = "" if isinstance(task, SupervisedTask) else OF_POLICIES
    about = (
        f"Task {settings.task}, trained on {task.dataset}, {settings.steps:,} {task.step_unit} "
        f"(scale {settings.scale}). "
        "Gradients of a training batch, at the weights of the narrowest width, which every width uses. "
        f"{several}Curves are running medians of five batches."
    )
    for file, content in written(found, task.metrics[0], about).items():
        write_atomically(folder / file, content)
    say(console, f"Table and figure: {folder}")
    return DONE


def _measured(task: Task, recipe: Recipe, run: TrainingRun) -> Pulled:
    if isinstance(task, SupervisedTask):
        return measure(task, recipe, run)
    from benchmarks.pull.policies import measure_policy  # it needs stable-baselines3
    from tasks.rl.task import ReinforcementLearning

    assert isinstance(task, ReinforcementLearning)
    return measure_policy(task.settings, recipe, run)


if __name__ == "__main__":
    sys.exit(main())
