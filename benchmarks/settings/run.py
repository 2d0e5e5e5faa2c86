"""The settings of one run, checked when composed: inside, they can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.settings.composing import compose_run, told_in_one_line
from benchmarks.settings.identity import settings_hash, slug
from benchmarks.settings.launcher import SERIAL, Launcher, Ray, Slurm, read_launcher
from benchmarks.settings.task import check_task_settings, deciding
from benchmarks.settings.tracker import NO_TRACKER, Tracker, read_tracker
from tasks.choices import as_tuple, check_choice, check_whole
from tasks.settings import unknown
from tasks.training.recipe import Recipe
from tasks.training.supervised import PRECISIONS

OVERWRITE = ("only-missing", "always", "never")
DEVICES = ("auto", "cpu", "cuda")
ABLATION_KEYS = ("question", "name", "tasks", "slimmable", "recipes")


@dataclass(frozen=True)
class RunSettings:
    """One ablation of one task.

    Attributes:
        task, task_settings: which task, and its own settings.
        data, default_data: the data chosen, and what the scale uses by default.
        ablation, question, recipes: the rows of the table, and what it answers.
        scale, steps, seeds: how long and how often each network is trained.
        overwrite: only-missing, always, or never (no training: tables and figures from the records there are).
        results: folder that all results lie in.
        launcher, tracker: where recipes run, and where they can be watched; neither changes a result.
        device, threads: where a network is trained, and on how many threads of the CPU.
        precision: what it computes in while it trains.
        checkpoint_seconds: between two checkpoints.
    """

    task: str
    task_settings: Mapping[str, Any]
    data: str
    default_data: str
    ablation: str
    question: str
    recipes: tuple[Recipe, ...]
    scale: str
    steps: int
    seeds: tuple[int, ...]
    overwrite: str = "only-missing"
    results: Path = Path("results")
    launcher: Launcher = SERIAL
    tracker: Tracker = NO_TRACKER
    device: str = "cpu"
    threads: int = 1
    precision: str = "float32"
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, at_least=1)
        check_choice("value of overwrite", self.overwrite, OVERWRITE)
        check_whole("threads", self.threads, at_least=1)
        check_choice("precision", self.precision, PRECISIONS)
        seconds = self.checkpoint_seconds
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
            raise ValueError(f"checkpoint_seconds must be a number of seconds, at least 0; got {seconds!r}")
        _check_seeds(self.seeds)
        self._check_recipes()

    def _check_recipes(self) -> None:
        if not self.recipes:
            raise ValueError(f"ablation={self.ablation} has no recipe for task={self.task}")
        names: dict[str, str] = {}
        hashes: dict[str, str] = {}
        for recipe in self.recipes:
            if not slug(recipe.name) or slug(recipe.name) in names:
                raise ValueError(
                    f"ablation={self.ablation} has two recipes named '{recipe.name}', or one without a name"
                )
            same = hashes.get(self.hash_of(recipe))
            if same is not None:
                raise ValueError(f"ablation={self.ablation}: recipes '{same}' and '{recipe.name}' are the same")
            names[slug(recipe.name)] = hashes[self.hash_of(recipe)] = recipe.name

    @property
    def folder(self) -> Path:
        """Where this run's results go; data other than the default lie one folder deeper."""
        folder = self.results / self.task / self.ablation / self.scale
        return folder if self.data == self.default_data else folder / self.data

    def hash_of(self, recipe: Recipe) -> str:
        """Of everything that decides the recipe's result but the seed."""
        return settings_hash(self.task, self.deciding, recipe.settings(), self.steps)

    def training_hash_of(self, recipe: Recipe) -> str:
        """Of everything that decides the trained network but the seed."""
        return settings_hash(self.task, self.deciding, recipe.training(), self.steps)

    @cached_property
    def deciding(self) -> dict[str, Any]:
        """What of the settings decides the result, apart from recipe, steps and seed."""
        lower = {} if self.precision == "float32" else {"precision": self.precision}
        return deciding(self.task_settings) | lower


@told_in_one_line()
def read_settings(arguments: Sequence[str]) -> RunSettings:
    """The settings that a command line describes.

    Raises:
        ValueError: something is misspelt or impossible; one line that names the nearest right one.
    """
    given = compose_run(arguments)
    task = dict(given["task"])
    name = task.pop("name")
    check_task_settings(name, task)
    ablation = given["ablation"]
    launcher = read_launcher(given["launcher"])
    return RunSettings(
        task=name,
        task_settings=task,
        data=given["data"]["name"],
        default_data=given["default_data"],
        ablation=ablation["name"],
        question=str(ablation["question"]),
        recipes=_only(given["only"], read_recipes(ablation, name)),
        scale=given["scale"]["name"],
        steps=given["steps"],
        seeds=_seeds(given["seeds"]),
        overwrite=given["overwrite"],
        results=_place(given["results"]),
        launcher=launcher,
        tracker=read_tracker(given["tracker"]),
        device=_device(given["device"], launcher),
        threads=given["threads"],
        precision=given["precision"],
        checkpoint_seconds=given["checkpoint_seconds"],
    )


def read_recipes(ablation: Mapping[str, Any], task: str) -> tuple[Recipe, ...]:
    """The recipes of an ablation that are for this task; `slimmable` is what all slimmable ones share."""
    name = ablation.get("name", "without a name")
    for key in ablation:
        if key not in ABLATION_KEYS:
            raise unknown(f"key of ablation={name}", key, ABLATION_KEYS)
    if not str(ablation.get("question") or "").strip():
        raise ValueError(f"ablation={name} must open with the question it answers")
    if task not in (ablation.get("tasks") or [task]):
        raise ValueError(f"ablation={name} has no meaning for task={task}; it is for {', '.join(ablation['tasks'])}")
    slimmable = _keys_and_values("ablation.slimmable", ablation.get("slimmable") or {})
    recipes = []
    for given in as_tuple("ablation.recipes", ablation.get("recipes") or []):
        own = _keys_and_values("a recipe of the ablation", given)
        tasks = own.pop("tasks", None)
        if tasks is not None and task not in tasks:
            continue
        shared = {} if own.get("kind") == "individual" else slimmable
        recipe = Recipe.from_mapping(shared | own)
        recipe.check_for(task)
        recipes.append(recipe)
    return tuple(recipes)


def _keys_and_values(what: str, given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must be keys and values, for example {{rule: sandwich}}; got {given!r}")
    return dict(given)


def _only(wanted: Any, recipes: tuple[Recipe, ...]) -> tuple[Recipe, ...]:
    names = [str(name) for name in as_tuple("only", wanted)]
    for name in names:
        check_choice("recipe", name, [recipe.name for recipe in recipes])
    return tuple(recipe for recipe in recipes if not names or recipe.name in names)


def _place(given: Any) -> Path:
    if not isinstance(given, str) or not given or "\0" in given:
        raise ValueError(f"results={given!r} must be a folder, for example results=results")
    return Path(given)


def _seeds(given: Any) -> tuple[int, ...]:
    return (given,) if isinstance(given, int) else tuple(given) if isinstance(given, list) else (str(given),)  # type: ignore[return-value]


def _check_seeds(seeds: tuple[int, ...]) -> None:
    for seed in seeds:
        check_whole("a seed", seed, at_least=0)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={list(seeds)}: at least one, and each only once, for example seeds=[0,1,2]")


def _device(given: object, launcher: Launcher) -> str:
    check_choice("device", given, DEVICES)
    if isinstance(launcher, Ray | Slurm):  # whose workers are on other machines
        if given == ("cpu" if launcher.gpus_per_job else "cuda"):
            other = "a GPU is reserved for each job" if launcher.gpus_per_job else "no GPU is reserved for a job"
            raise ValueError(f"device={given}, and launcher.gpus_per_job={launcher.gpus_per_job:g}: {other}")
        return "cuda" if launcher.gpus_per_job else "cpu"
    if given == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if given == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: torch sees no GPU here; use device=cpu or device=auto")
    return str(given)
