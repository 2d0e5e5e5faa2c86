"""Keep trained networks with the results: `python -m benchmarks.networks task=classification scale=small seeds=[0]`.

Choices and keys are those of benchmarks.run, which has trained the networks. Each slimmable one that is there is
written, with its recipe and calibrated at the widths that it was scored at, to
results/networks/<recipe>-<seed>-<training>.safetensors, at most 3 MB large. A run that would train the same network
takes it from there; `slim.load` reads it, too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

import slimlib as slim
from benchmarks.running.command import DONE, FAILED, command, say
from benchmarks.running.jobs import Job, chains, committed_network, plan, trained_network
from benchmarks.settings.run import RunSettings, read_settings
from benchmarks.settings.task import make_task
from tasks.task import SupervisedTask
from tasks.training.ranks import ALONE
from tasks.training.run import derive_seed
from tasks.training.scoring import calibrate

LARGEST = 3e6  # bytes: a repository keeps every version for ever


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the networks; returns the exit code, as `benchmarks.running.command` has them."""
    return command(arguments, __doc__, read_settings, _keep_all, interrupted="the same command goes on")


def _keep_all(settings: RunSettings) -> int:
    console, kept = Console(), 0
    jobs = [group[0] for group in chains(plan(settings)) if group[0].recipe.kind == "slimmable"]
    task = make_task(settings.task, settings.task_settings)
    if not isinstance(task, SupervisedTask):
        raise ValueError(f"task={settings.task}: only the networks of supervised tasks are kept so")
    for job in jobs:
        state = trained_network(settings, job).read()
        if state is None:
            say(console, f"{job.label}: not trained here")
            continue
        path = _keep(settings, job, task, state["net"])
        say(console, f"{job.label}: {path}, {path.stat().st_size / 1e6:.2f} MB")
        kept += 1
    return DONE if kept else FAILED


def _keep(settings: RunSettings, job: Job, task: SupervisedTask, state: dict[str, torch.Tensor]) -> Path:
    recipe, device = job.recipe, torch.device(settings.device)
    net = recipe.convert(recipe.build(task), task)
    net.load_state_dict(state)
    calibrate(task, recipe, net.to(device), recipe.points(task), derive_seed(job.seed, "calibration"), device, ALONE)
    size = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    if size > LARGEST:
        raise ValueError(f"{job.label} takes {size / 1e6:.1f} MB; networks of at most {LARGEST / 1e6:.0f} MB are kept")
    path = committed_network(settings, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"task": settings.task, "data": settings.data, "scale": settings.scale, "record": job.name}
    slim.save(net, path, recipe=about | {"training": job.training, "seed": job.seed} | recipe.training())
    return path


if __name__ == "__main__":
    sys.exit(main())
