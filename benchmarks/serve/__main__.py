"""`python -m benchmarks.serve`: upscale a stream of images in time, while budget and load of the machine change.

A small super-resolution network is trained first (some minutes; it is kept for the next time). Then each image is
answered by four servers: the governor, which chooses the width; a governor that moves the knob of a cascade, in which
images whose narrow answer is smooth go no further; the full width; and the narrowest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import slimlib as slim
from benchmarks.records.environment import commit, host_class, versions
from benchmarks.running.command import DONE, ended, read_options
from benchmarks.serve.report import HEAD, figure, rows, table
from benchmarks.serve.stream import PATCH, Request, images_of, serve
from benchmarks.settings.run import read_settings
from benchmarks.settings.task import make_task
from tasks.atomic import write_atomically
from tasks.sr.difficulty import difficulty
from tasks.sr.task import SuperResolution
from tasks.training.problem import HELD_OUT
from tasks.training.recipe import Recipe

WIDTHS = (0.25, 0.5, 0.75, 1.0)
NETWORK = ("task.features=32", "task.blocks=4")
FITTED_ON = 40  # batches of patches


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code, as `benchmarks.running.command` has them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each of the five phases")
    parser.add_argument("--steps", type=int, default=600, help="of the training")
    parser.add_argument("--results", type=Path, default=Path("results/serve"))
    chosen = read_options(parser, arguments)
    if not chosen.seconds > 0 or chosen.steps < 1:
        parser.error("--seconds and --steps must be above 0")
    return ended(lambda: _serve(chosen), "the network is kept, if its training was over")


def _serve(chosen: argparse.Namespace) -> int:
    console = Console()
    torch.set_num_threads(1)
    task, held_out, net = network(chosen.results / "cache", chosen.steps, console)
    frozen = slim.freeze(net, WIDTHS)
    images = images_of(task.evaluation[0], task.settings.scale)
    measured = slim.profile(frozen, images[0].low, WIDTHS, rounds=40, threads=1)
    console.print(str(measured), markup=False, highlight=False)
    cascade = fitted(net, held_out).on(frozen)
    with console.status("serving"):
        stream = serve(frozen, measured, images, cascade, scale=task.settings.scale, seconds=chosen.seconds)
        requests = list(stream)
    about = (
        f"Upscaling x{task.settings.scale} of {PATCH} x {PATCH} parts of held-out photographs, {chosen.seconds:g} s a "
        f"phase, one thread, {host_class('cpu')}; PSNR on Y. Budgets are multiples of what the full width takes on the "
        "idle machine. Other work: two computing processes for each core. `python -m benchmarks.serve`"
    )
    write(chosen.results, requests, measured, about)
    show(requests, console)
    console.print(f"Table and figure: {chosen.results}", markup=False, highlight=False)
    return DONE


def network(kept_in: Path, steps: int, console: Console) -> tuple[SuperResolution, SuperResolution, nn.Module]:
    """The task, the part of it that is held out, and its trained network; trained now unless it was before."""
    settings = read_settings(["task=sr", "ablation=sandwich", *NETWORK, f"steps={steps}"])
    task = make_task(settings.task, settings.task_settings)
    assert isinstance(task, SuperResolution)
    recipe = next(recipe for recipe in settings.recipes if recipe.name == "sandwich")
    learned, held_out = task.split(HELD_OUT)
    kept = kept_in / f"{settings.training_hash_of(recipe)}-held-out.safetensors"
    if not kept.exists():
        kept_in.mkdir(parents=True, exist_ok=True)
        write_atomically(kept_in / ".gitignore", "*\n")
        slim.save(trained(learned, recipe, steps, console), kept)
    return task, held_out, slim.load(kept, into=recipe.build(task)).eval()


def fitted(net: nn.Module, held_out: SuperResolution) -> slim.Cascade:
    """A cascade that takes smooth answers; its thresholds are from images that the network has not learned from."""
    pairs = list(held_out.batches(range(FITTED_ON), 0))
    return slim.fit_cascade(
        net,
        WIDTHS,
        [low for low, _ in pairs],
        [high for _, high in pairs],
        budget=1.0,
        confidence=lambda output: -difficulty(output),
        score=lambda output, high: -(output - high).square().mean((1, 2, 3)),
    )


def write(folder: Path, requests: Sequence[Request], measured: slim.Profile, about: str) -> None:
    """Write record.json, table.md, figure.png and .svg."""
    record = {
        "about": about,
        "profile": [asdict(row) for row in measured.rows],
        "origin": {"versions": versions(), "commit": commit(), "host": host_class("cpu")},
        "requests": [list(asdict(request).values()) for request in requests],
        "columns": list(asdict(requests[0])),
    }
    write_atomically(folder / "record.json", json.dumps(record) + "\n")
    write_atomically(folder / "table.md", table(requests, about))
    for kind, content in figure(requests).items():
        write_atomically(folder / f"figure.{kind}", content)


def show(requests: Sequence[Request], console: Console) -> None:
    """The table, on the screen."""
    shown = Table()
    for number, head in enumerate(HEAD):
        shown.add_column(head, justify="left" if number < 2 else "right")
    for row in rows(requests):
        shown.add_row(*row)
    console.print(shown)


def trained(task: SuperResolution, recipe: Recipe, steps: int, console: Console) -> nn.Module:
    """A slimmable network, trained as the recipe says."""
    torch.manual_seed(0)
    net = recipe.convert(recipe.build(task), task)
    rule = recipe.make_rule(0)
    optimizer, schedule = task.optimizer(net, steps)
    for x, target in track(task.batches(range(steps), 0), "training", total=steps, console=console):
        optimizer.zero_grad()
        rule.backward(net, x, lambda output, target=target: task.loss(output, target))
        optimizer.step()
        schedule.step()
    return net


if __name__ == "__main__":
    sys.exit(main())
