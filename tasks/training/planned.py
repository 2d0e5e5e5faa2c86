"""Recipes that choose channels: a first network, plans that are found in it, and the networks trained at these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

import slimlib as slim
from slimlib.core.setting import slimming_of
from slimlib.core.width import WidthPlan
from slimlib.search.space import uniform_plans
from slimlib.training.rules import rule_named
from tasks.points import OperatingPoint, PointResult, by_cost
from tasks.training.finding import Finder
from tasks.training.problem import HELD_OUT, Problem
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun, derive_seed
from tasks.training.scoring import score
from tasks.training.supervised import Loop, Training, begin, fresh, resumed, start, train_recipe


def train_planned(task: Problem, recipe: Recipe, run: TrainingRun) -> list[PointResult]:
    """Find plans within the budgets of a recipe, train at them what it says, and score them.

    All is done without the part of the training data that is held out, on which plans are scored.

    Returns:
        A result for each budget, cheapest first: the same whether or not the run was interrupted.

    Raises:
        ValueError: several ranks, or a budget that cannot be met.
        Interrupted, TrainingFailed, HostileCheckpointError: as `tasks.training.supervised.train_recipe`.
    """
    if run.ranks.count > 1:
        raise ValueError(f"recipe '{recipe.name}' chooses channels in one process; start without torchrun")
    learned, held_out = task.split(recipe.held_out or HELD_OUT)
    loop = Loop(learned, recipe, run)
    if recipe.kind == "individual":
        return _individuals(loop)
    first = _first(loop)
    finder = Finder(loop, held_out, _plan_files(run))
    ranking = None if recipe.order is None else finder.sort(first)
    found = finder.plans(first, ranking)
    points = [OperatingPoint(name, one.plan) for name, one in zip(recipe.points_within(), found, strict=True)]
    net = first if recipe.retrain is None else _retrained(loop, first, [one.plan for one in found])
    results = score(learned, recipe, net, None, seed=run.seed, device=run.device, points=points)
    about = {
        point.name: {"held_out_loss": one.score, "evaluations": float(found.evaluations + finder.learned_by)}
        for point, one in zip(points, found, strict=True)
    }
    return sorted((replace(result, found=about[result.point]) for result in results), key=by_cost)


def _individuals(loop: Loop) -> list[PointResult]:
    """Ordinary networks of the uniform widths within the budgets."""
    task, recipe, run = loop.task, loop.recipe, loop.run
    net = slim.convert(fresh(loop), task.example(), **task.channel_rule(fresh(loop)))
    inputs = [x for x, _ in task.batches(range(1), run.seed)]
    found = slim.search(
        net, lambda _: 0.0, recipe.budgets, example=task.example(), method="uniform", calibrate=inputs
    )  # what it scores does not matter: there is one plan for each budget
    widths = uniform_plans(slimming_of(net).layout)
    points = {
        name: (widths[one.plan.channels], one.plan) for name, one in zip(recipe.points_within(), found, strict=True)
    }
    task.widths = tuple(sorted({width for width, _ in points.values()}))
    at = {result.width: result for result in train_recipe(task, Recipe(recipe.name, kind="individual"), run)}
    return [
        replace(at[width], point=name, kind="plan", width=None, channels=plan.channels)
        for name, (width, plan) in sorted(points.items(), key=lambda item: item[1][0])
    ]


def _first(loop: Loop) -> nn.Module:
    """The network that channels are chosen in, trained by the first recipe that needs it."""
    run = loop.run.first or replace(loop.run, checkpoint=None, trained=None)
    own = replace(loop, run=replace(run, watch=loop.run.watch))
    width = None if loop.recipe.order is None else 1.0
    with run.alone("network"):
        state = None if run.trained is None else run.trained.read()
        if state is None:
            _forget_searches(loop.run)
            net = resumed(own, lambda: start(own, width)).net
            if run.trained is not None:
                run.trained.write({"net": net.state_dict()})
            if run.checkpoint is not None:
                run.checkpoint.remove()
        else:
            net = start(own, width).net
            net.load_state_dict(state["net"])
    return net if width is None else loop.recipe.convert(net.cpu(), loop.task).to(run.device)


def _retrained(loop: Loop, first: nn.Module, plans: Sequence[WidthPlan]) -> nn.Module:
    """The plans trained together, each step all of them, the widest teaching the others if the recipe distils."""
    recipe, run = loop.recipe, loop.run
    switches = slim.Switches(*dict.fromkeys(plans))
    steps = max(1, round((recipe.retrained or 1.0) * run.steps))
    own = replace(loop, run=replace(run, steps=steps))

    def make() -> Training:
        net = recipe.convert(fresh(own), own.task, switches)
        if recipe.retrain == "further":
            net.load_state_dict(first.state_dict())
        lessons = recipe.lessons() if recipe.distill != "none" or recipe.lesson else None
        rule = rule_named("every", switches, lessons=lessons, seed=derive_seed(run.seed, "widths"))
        return begin(own, net, None, rule)

    return resumed(own, make).net


def _forget_searches(run: TrainingRun) -> None:
    """Remove the files of searches in a first network that is there no more."""
    files = _plan_files(run)
    for path in files.parent.glob(f"{files.name}-*.json") if files is not None else ():
        path.unlink()


def _plan_files(run: TrainingRun) -> Path | None:
    """What the files of searches in the first network begin with."""
    first = run.first
    return None if first is None or first.trained is None else first.trained.path.with_suffix("")
