"""The trained networks of recipes: those that a run has kept, and those that lie in results/networks."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import slimlib as slim
from benchmarks.records.folder import ResultsFolder
from benchmarks.running.jobs import Job, committed_network, trained_network
from benchmarks.settings.run import RunSettings
from tasks.points import OperatingPoint
from tasks.task import SupervisedTask
from tasks.training.ranks import ALONE
from tasks.training.recipe import Recipe
from tasks.training.run import derive_seed
from tasks.training.scoring import calibrate


@dataclass(frozen=True)
class Trained:
    """A trained network, slimmable and in eval mode: an individual one has been converted, and is whole at width 1.

    Attributes:
        widths: those that it was trained for and its task evaluates, the narrowest first.
        place: the file that it was read from.
    """

    recipe: Recipe
    seed: int
    net: nn.Module
    widths: tuple[float, ...]
    place: Path


def find(settings: RunSettings, job: Job, task: SupervisedTask) -> Trained | None:
    """The network that a job has trained, its statistics computed for every width; None where there is none.

    It is what a run has kept, or what `benchmarks.networks` has.

    Raises:
        ValueError: that file is of another network.
        HostileCheckpointError: the file would run code.
    """
    recipe, dense = job.recipe, job.recipe.build(task)
    trained = trained_network(settings, job)
    state = trained.read()
    if state is not None:
        return _ready(settings, job, task, slimmable(recipe, task, dense, state["net"]), trained.path)
    path = committed_network(settings, job)
    return _ready(settings, job, task, slim.load(path, into=dense), path) if path.exists() else None


def slimmable(
    recipe: Recipe, task: SupervisedTask, dense: nn.Module, state: Mapping[str, Any] | None = None
) -> nn.Module:
    """The recipe's network with these weights, made slimmable in place, which changes nothing of an individual one."""
    individual = recipe.kind == "individual"
    net = dense if individual else recipe.convert(dense, task)
    if state is not None:
        net.load_state_dict(state)
    return slim.convert(net, task.example(), **task.channel_rule(net)) if individual else net


def how_to_train(settings: RunSettings, job: Job, given: Sequence[str]) -> str:
    """The command that trains the network of a job.

    Args:
        given: the words that the settings were read from.
    """
    words = [word for word in given if not word.startswith(("only=", "seeds=", "overwrite="))]
    folder = ResultsFolder(settings.folder)
    recorded = any(place.find(job.hash, job.seed) for place in [folder, *folder.siblings(settings.results)])
    again = " overwrite=always" if recorded else ""  # it has its record, and its network is gone
    return f"python -m benchmarks.run {shlex.join(words)} 'only=[\"{job.recipe.name}\"]' seeds=[{job.seed}]{again}"


def _ready(settings: RunSettings, job: Job, task: SupervisedTask, net: nn.Module, path: Path) -> Trained:
    recipe, device = job.recipe, torch.device(settings.device)
    net = net.to(device).eval()
    if recipe.kind == "individual":
        return Trained(recipe, job.seed, net, (1.0,), path)
    widths = tuple(sorted(width for width in task.widths if width in recipe.widths()))
    points = [OperatingPoint.of_width(width) for width in widths]
    calibrate(task, recipe, net, points, derive_seed(job.seed, "calibration"), device, ALONE)
    return Trained(recipe, job.seed, net.eval(), widths, path)
