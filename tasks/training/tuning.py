"""Hyperparameters chosen for each recipe: a grid of trials, on what no training learns from and no table scores."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated

from tasks.atomic import write_atomically
from tasks.settings import Lax, Settings, setting
from tasks.training.checkpoint import Checkpoint
from tasks.training.run import TrainingFailed, TrainingRun, derive_seed

Values = Mapping[str, float | str]
"""Hyperparameters of a task."""
Scores = Mapping[str, Mapping[str, float]]
"""Of trials, by `label_of`: how bad each is at each operating point."""
Trial = Callable[[Values, TrainingRun, float | None], Mapping[str, float]]
"""Trains one network with the values, None: the slimmable one; how bad it is at each operating point, by its name."""


class Tuning(Settings):
    """The keys of a recipe whose hyperparameters are chosen. Individual networks have their own best at each width."""

    tune: Mapping[str, Annotated[tuple[float | str, ...], Lax]] | None = setting(
        None, "hyperparameters, and the values of which the best is taken", examples=[{"lr": [0.1, 0.2]}]
    )
    tune_steps: float | None = setting(None, "share of the steps that a trial takes; none: all", gt=0, le=1)
    tune_seeds: int | None = setting(
        None, "seeds of the trials, different from those of the trainings; none: a single one", ge=1
    )

    def check_tuning(self) -> None:
        """Raise ValueError where a key has no meaning without the other, or there is nothing to choose from."""
        for key in ("tune_steps", "tune_seeds"):
            if self.tune is None and getattr(self, key) is not None:
                raise ValueError(f"'{key}' has no meaning without tune, for example tune: {{lr: [0.1, 0.2]}}")
        for key, values in (self.tune or {}).items():
            if len(set(values)) < max(2, len(values)):
                raise ValueError(f"tune: {key}: {list(values)} must be two values at least, each once")
        if self.tune is not None and not self.tune:
            raise ValueError("tune needs hyperparameters and their values, for example tune: {lr: [0.1, 0.2]}")

    def grid(self) -> list[Values]:
        """The values of each trial; empty where nothing is chosen."""
        tune = self.tune or {}
        return [dict(zip(tune, values, strict=True)) for values in product(*tune.values())] if tune else []

    def steps_of_trial(self, steps: int) -> int:
        """How many a trial takes, where a training takes `steps`."""
        return max(1, round((self.tune_steps or 1.0) * steps))


class Choice:
    """The values that are best for each network of a recipe, and what they scored.

    Args:
        networks: of the recipe, by their widths; None: the slimmable one, whose score is the mean over its widths.
        scores: of all trials.

    Raises:
        TrainingFailed: all trials of a network have failed.
    """

    def __init__(self, recipe: Tuning, networks: Sequence[float | None], scores: Scores) -> None:
        self._best: dict[float | None, tuple[float, Values]] = {}
        self.trials = len(recipe.grid()) * (recipe.tune_seeds or 1)
        for width in networks:
            tried = [
                (fmean(_mean(scores[label_of(values, seed, width)]) for seed in range(recipe.tune_seeds or 1)), values)
                for values in recipe.grid()
            ]
            self._best[width] = min(tried, key=lambda one: one[0])
            if not math.isfinite(self._best[width][0]):
                raise TrainingFailed(f"every trial of {dict(recipe.tune or {})} failed; try smaller values")

    def values(self, width: float | None) -> Values:
        """Of a network."""
        return self._best[width][1]

    def found(self, width: float | None) -> dict[str, float]:
        """What a record says of it: the values, as numbers, the score, and the number of trials."""
        score, values = self._best[width]
        numbers = {key: float(str(value).removeprefix("lin_")) for key, value in values.items() if _is_number(value)}
        return numbers | {"held_out_score": score, "trials": float(self.trials)}


def choose(recipe: Tuning, networks: Sequence[float | None], run: TrainingRun, trial: Trial) -> Choice:
    """Run the trials that are missing; those that are done are kept in `run.tuning`, for all seeds of the recipe."""
    with run.alone("tuning"):
        scores = _read(run.tuning)
        steps, done = recipe.steps_of_trial(run.steps), 0
        for values in recipe.grid():
            for seed in range(recipe.tune_seeds or 1):
                for width in networks:
                    label = label_of(values, seed, width)
                    if label not in scores:
                        own = _run_of_trial(run, label, seed, steps, done)
                        try:
                            scores[label] = dict(trial(values, own, width))
                        except TrainingFailed:
                            scores[label] = {"failed": math.inf}
                        _write(run.tuning, recipe, scores)
                        if own.checkpoint is not None:
                            own.checkpoint.remove()
                    done += steps
    return Choice(recipe, networks, scores)


def after_trials(recipe: Tuning, networks: Sequence[float | None], run: TrainingRun) -> TrainingRun:
    """The run of the training itself, whose steps are counted after those of the trials."""
    before = len(recipe.grid()) * (recipe.tune_seeds or 1) * len(networks) * recipe.steps_of_trial(run.steps)
    return replace(run, watch=_counting_from(run, before).watch)


def label_of(values: Values, seed: int, width: float | None) -> str:
    """A trial in the file of scores: `lr=0.1, seed 0, width 0.25`."""
    parts = [*(f"{key}={value}" for key, value in values.items()), f"seed {seed}"]
    return ", ".join(parts if width is None else [*parts, f"width {width:g}"])


def _run_of_trial(run: TrainingRun, label: str, seed: int, steps: int, done: int) -> TrainingRun:
    kept, checkpoint = run.checkpoint, None
    if kept is not None:
        identity = f"{kept.identity} {label}"
        checkpoint = Checkpoint(kept.path, identity, every=kept.every, spent=kept.spent, warn=kept.warn)
    own = replace(run, steps=steps, seed=derive_seed(seed, "tuning"), checkpoint=checkpoint, trained=None, first=None)
    return _counting_from(own, done)


def _counting_from(run: TrainingRun, done: int) -> TrainingRun:
    watch = run.watch
    return replace(run, watch=replace(watch, step=lambda step, loss: watch.step(done + step, loss)))


def _mean(scores: Mapping[str, float]) -> float:
    return fmean(scores.values())


def _is_number(value: object) -> bool:
    try:
        float(str(value).removeprefix("lin_"))
    except ValueError:
        return False
    return True


def _read(path: Path | None) -> dict[str, Mapping[str, float]]:
    if path is None or not path.exists():
        return {}
    kept = json.loads(path.read_text())["scores"]
    return {label: {point: math.inf if s is None else s for point, s in of.items()} for label, of in kept.items()}


def _write(path: Path | None, recipe: Tuning, scores: Scores) -> None:
    if path is not None:
        kept = {label: {p: s if math.isfinite(s) else None for p, s in of.items()} for label, of in scores.items()}
        about = {key: getattr(recipe, key) for key in Tuning.model_fields if getattr(recipe, key) is not None}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(about | {"scores": kept}, indent=1, default=list) + "\n")
