"""Look at what the channels of trained networks have learned: `python -m benchmarks.features task=classification`.

Choices and keys are those of benchmarks.run, which has trained the networks; unless another is named, those of
ablation=spectrum: individual networks, switches, and the sandwich rule. Networks that are missing are named, with the
command that trains them. Figures and tables go to results/<task>/features/<scale>/.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.features.looking import FeatureSettings, layer_to_draw, look
from benchmarks.features.networks import find, how_to_train
from benchmarks.features.writing import NOT_SHOWN, write
from benchmarks.running.command import DONE, FAILED, command, complain, say
from benchmarks.running.jobs import plan
from benchmarks.settings.overrides import parse
from benchmarks.settings.run import RunSettings, read_settings
from benchmarks.settings.task import make_task
from tasks.settings import keys_of
from tasks.task import SupervisedTask
from tasks.training.run import TrainingRun

ABLATION = "spectrum"
OF_PATCHES = {"layer", "channels", "patches"}

KEYS = "\n".join(f"{key.name}={key.default}  {key.about} ({key.allowed})" for key in keys_of(FeatureSettings))


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    words: tuple[str, ...]
    run: RunSettings
    features: FeatureSettings

    @property
    def folder(self) -> Path:
        """Where figures and tables go."""
        return self.run.folder_of("features")


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at networks; returns the exit code, as `benchmarks.running.command` has them."""
    return command(arguments, f"{__doc__}\n{KEYS}", read, _work, interrupted="nothing was written")


def read(given: Sequence[str]) -> Asked:
    """The settings that the words describe.

    Raises:
        ValueError: in one line: a key or value is wrong, or the networks are no such as can be looked at.
    """
    prefix = f"{FeatureSettings.group}."
    parsed = [parse(word, {f"{prefix}layer": False}) for word in given if word.startswith(prefix)]
    own: dict[str, Any] = {one.key_or_group.removeprefix(prefix): one.value() for one in parsed}
    words = [word for word in given if not word.startswith(prefix)]
    if not any(word.startswith("ablation=") for word in words):
        words.append(f"ablation={ABLATION}")
    run = read_settings(words)
    if run.task == "rl":
        raise ValueError("task=rl: its networks see no images; choose task=classification or task=sr")
    chosen = [recipe.name for recipe in run.recipes if recipe.search is not None]
    if chosen:
        raise ValueError(f"recipe '{chosen[0]}' chooses its channels, and its network is not kept; see only=[...]")
    return Asked(tuple(words), run, FeatureSettings(**own))


def _work(asked: Asked) -> int:
    settings, console = asked.run, Console()
    features = asked.features.replace(gradient_steps=min(asked.features.gradient_steps, settings.steps))
    torch.set_num_threads(settings.threads)
    task = make_task(settings.task, settings.task_settings)
    assert isinstance(task, SupervisedTask)
    device = torch.device(settings.device)
    held_out = task.held_out(features.images)
    held_out = replace(held_out, inputs=held_out.inputs.to(device), targets=held_out.targets.to(device))
    if held_out.pixels is None and (idle := sorted(OF_PATCHES & asked.features.model_fields_set)):
        raise ValueError(f"features.{idle[0]} would do nothing: {NOT_SHOWN[0].lower()}{NOT_SHOWN[1:]} Leave it out.")
    looked, missing = [], []
    for job in plan(settings):
        trained = find(settings, job, task)
        if trained is None:
            missing.append(f"{job.label}: no trained network; {how_to_train(settings, job, asked.words)}")
            continue
        say(console, f"{job.label}: {trained.place}")
        layer_to_draw(trained, features)  # it is told before minutes are spent that there is no such layer
        run = TrainingRun(settings.steps, job.seed, device=device, precision=settings.precision)
        looked.append(look(trained, task, held_out, run, features.gradient_steps))
    complain(missing)
    if looked:
        about = (
            f"Task {settings.task}, trained on {task.dataset}, {settings.steps:,} steps of each network (scale "
            f"{settings.scale}). Looked at with {len(held_out.inputs)} inputs of {task.eval_sets[0]}."
        )
        write(asked.folder, looked, held_out, features, about)
        say(console, f"Figures and tables: {asked.folder}")
    return FAILED if missing else DONE


if __name__ == "__main__":
    sys.exit(main())
