"""The settings of one run, checked when composed: inside, they can be trusted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import InstanceOf, model_validator

from benchmarks.settings.choices import check_choice, model_of
from benchmarks.settings.composing import compose_run, told_in_one_line
from benchmarks.settings.groups import Ablation, Run, Training
from benchmarks.settings.identity import settings_hash, slug
from benchmarks.settings.launcher import Launcher, Ray, Serial, Slurm
from benchmarks.settings.task import deciding, read_task
from benchmarks.settings.tracker import NoTracker, Tracker
from tasks.settings import Lax, Settings, setting, unknown
from tasks.training.recipe import Recipe
from tasks.training.tuning import Tuning

MEANT_FOR = {"tasks": "task", "scales": "scale"}
"""Keys of a recipe that say where it is left out, and the group that their values are of."""


class RunSettings(Training):
    """One ablation of one task."""

    task: str = setting(..., "what networks are trained for")
    task_settings: Mapping[str, Any] = setting(..., "the task's settings")
    deeper: tuple[str, ...] = setting((), "the folder of what the task scores other than by default")
    data: str = setting(..., "what they are trained on")
    default_data: str = setting(..., "what the scale uses by default")
    ablation: str = setting(..., "which recipes are compared")
    question: str = setting(..., "what the ablation answers")
    recipes: Annotated[tuple[InstanceOf[Recipe], ...], Lax] = setting(..., "the rows of its table")
    of_ablation: Annotated[tuple[str, ...], Lax] = setting((), "all its recipes in order; none: those of the run")
    scale: str = setting(..., "how long and how often networks are trained")
    launcher: InstanceOf[Launcher] = setting(Serial(), "where recipes run, which changes no result")
    tracker: InstanceOf[Tracker] = setting(NoTracker(), "where they can be watched, which changes no result")
    device: Literal["cpu", "cuda"] = setting("cpu", "where a network is trained")

    @model_validator(mode="after")
    def _check_recipes(self) -> Self:
        if not self.recipes:
            raise ValueError(f"ablation={self.ablation} has no recipe for task={self.task}")
        hashes: dict[str, str] = {}
        for recipe in self.recipes:
            if not slug(recipe.name):
                raise ValueError(f"ablation={self.ablation}: the name {recipe.name!r} needs a letter or a digit")
            if recipe.name in hashes.values():
                raise ValueError(f"ablation={self.ablation} has two recipes named '{recipe.name}'")
            same = hashes.get(self.hash_of(recipe))
            if same is not None:
                raise ValueError(f"ablation={self.ablation}: recipes '{same}' and '{recipe.name}' are the same")
            hashes[self.hash_of(recipe)] = recipe.name
        return self

    @property
    def folder(self) -> Path:
        """Where this run's results go; those of other data than the default, or of another head, lie deeper."""
        data = () if self.data == self.default_data else (self.data,)
        return self.results.joinpath(self.task, self.ablation, self.scale, *data, *self.deeper)

    def folder_of(self, what: str) -> Path:
        """Where something else goes that is made of the same task, scale and data."""
        task, _, *deeper = self.folder.relative_to(self.results).parts
        return self.results.joinpath(task, what, *deeper)

    def hash_of(self, recipe: Recipe) -> str:
        """Of everything that decides the recipe's result but the seed."""
        return settings_hash(self.task, self.deciding, recipe.settings(), self.steps)

    def training_hash_of(self, recipe: Recipe) -> str:
        """Of everything that decides the trained network but the seed."""
        return settings_hash(self.task, self.deciding, recipe.training(), self.steps)

    def first_hash_of(self, recipe: Recipe) -> str:
        """Of everything that decides the network that its channels are chosen in; empty where none are."""
        first = recipe.begins_with()
        return settings_hash(self.task, self.deciding, first, self.steps) if first else ""

    @cached_property
    def deciding(self) -> dict[str, Any]:
        """What of the settings decides the result, apart from recipe, steps and seed."""
        lower = {} if self.precision == "float32" else {"precision": self.precision}
        return deciding(self.task, self.task_settings) | lower


@told_in_one_line()
def read_settings(arguments: Sequence[str]) -> RunSettings:
    """The settings that a command line describes.

    Raises:
        ValueError: something is misspelt or impossible; one line that names the nearest right one.
    """
    given = compose_run(arguments)
    run = Run(**{key: value for key, value in given.items() if key in Run.model_fields})
    task, ablation = given["task"]["name"], given["ablation"]
    task_settings = read_task(task, _keys(given["task"]))
    launcher, tracker = (
        model_of(group, given[group]["name"])(**_keys(given[group])) for group in ("launcher", "tracker")
    )
    assert isinstance(launcher, Launcher) and isinstance(tracker, Tracker)
    launcher.check_here()
    tracker.check_here()
    in_force = {key: getattr(run, key) for key in Training.model_fields}
    recipes = _with_tuned(run, read_recipes(ablation, task, given["scale"]["name"]), task_settings)
    wanted = _possible(_only(run.only, recipes), task_settings, named=bool(run.only))
    return RunSettings(
        **in_force | {"device": _device(run.device, launcher)},
        task=task,
        task_settings=task_settings.model_dump(),
        deeper=task_settings.own_folder(),
        data=given["data"]["name"],
        default_data=given["default_data"],
        ablation=ablation["name"],
        question=str(ablation["question"]),
        recipes=wanted,
        of_ablation=tuple(recipe.name for recipe in recipes),
        scale=given["scale"]["name"],
        launcher=launcher,
        tracker=tracker,
    )


def read_recipes(ablation: Mapping[str, Any], task: str, scale: str | None = None) -> tuple[Recipe, ...]:
    """The recipes of an ablation that are for this task and scale; None: for any scale.

    Raises:
        ValueError: in one line: a key or value is wrong, or the ablation is for other tasks.
    """
    checked = Ablation(**ablation)
    of_scale = checked.of_scale.get(scale or "", {})
    for name in [*checked.tasks, *checked.of_task, *(task for own in checked.of_scale.values() for task in own)]:
        check_choice("task", name)
    for name in checked.of_scale:
        check_choice("scale", name)
    if checked.tasks and task not in checked.tasks:
        others = ", ".join(checked.tasks)
        raise ValueError(f"ablation={checked.name} has no meaning for task={task}; it is for {others}")
    recipes = []
    for own in checked.recipes:
        for key, group in MEANT_FOR.items():
            for name in own.get(key, ()):
                check_choice(group, name)
        if task not in own.get("tasks", [task]) or scale not in (None, *own.get("scales", [scale])):
            continue
        shared: dict[str, Any] = {}
        if own.get("kind") != "individual":
            shared = {**checked.slimmable, **checked.of_task.get(task, {}), **of_scale.get(task, {})}
        recipe = Recipe.from_mapping({**shared, **{key: value for key, value in own.items() if key not in MEANT_FOR}})
        recipe.check_for(task)
        recipes.append(recipe)
    return tuple(recipes)


def _keys(choice: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in choice.items() if key != "name"}


def _with_tuned(run: Run, recipes: tuple[Recipe, ...], task: Settings) -> tuple[Recipe, ...]:
    """The recipes, and at the end each that can be tuned once more, its hyperparameters chosen."""
    keys = {key: getattr(run, key) for key in Tuning.model_fields if getattr(run, key)}
    can = [recipe for recipe in recipes if not (recipe.tune or recipe.search or recipe.per_input or recipe.budgets)]
    found = [*recipes, *(recipe.replace(name=f"{recipe.name}, tuned", **keys) for recipe in can if keys)]
    for values in (values for recipe in found for values in recipe.grid()):
        task.tuned(values)
    return tuple(found)


def _only(wanted: Sequence[str], recipes: tuple[Recipe, ...]) -> tuple[Recipe, ...]:
    names = [recipe.name for recipe in recipes]
    for name in wanted:
        if name not in names:
            raise unknown("recipe", name, names)
    return tuple(recipe for recipe in recipes if not wanted or recipe.name in wanted)


def _possible(recipes: Sequence[Recipe], task: Settings, *, named: bool) -> tuple[Recipe, ...]:
    """The recipes that the task's settings can train; `named`: each was asked for, so that none may be left out."""
    reasons = {recipe.name: task.refuses(recipe) for recipe in recipes}
    for name, reason in reasons.items():
        if reason and named:
            raise ValueError(f"recipe '{name}': {reason}")
        if reason:
            warnings.warn(f"recipe '{name}' is left out: {reason}", stacklevel=2)
    return tuple(recipe for recipe in recipes if not reasons[recipe.name])


def _device(given: str, launcher: Launcher) -> str:
    if isinstance(launcher, Ray | Slurm):  # whose workers are on other machines
        if given == ("cpu" if launcher.gpus_per_job else "cuda"):
            other = "a GPU is reserved for each job" if launcher.gpus_per_job else "no GPU is reserved for a job"
            raise ValueError(f"device={given}, and launcher.gpus_per_job={launcher.gpus_per_job:g}: {other}")
        return "cuda" if launcher.gpus_per_job else "cpu"
    if given == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if given == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: torch sees no GPU here; use device=cpu or device=auto")
    return given
