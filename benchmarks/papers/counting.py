"""How many multiply-adds a training takes, counted on its networks before it is run; no image is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import slimlib as slim
from benchmarks.perf.alone import ClassifiersAlone, UpscalersAlone
from benchmarks.settings.run import RunSettings
from slimlib.training.rule import Rule
from tasks.classification.settings import ClassificationSettings
from tasks.sr.settings import SrSettings
from tasks.training.problem import Problem
from tasks.training.recipe import Recipe

FORWARD_AND_BACKWARD = 3
"""A backward pass multiplies twice as often as the forward pass: for the gradients of inputs and of weights."""

POINTS = (0.25, 0.5, 0.75, 1.0)  # multiply-adds are nearly quadratic in the width, so that these tell of all
DRAWS = 1000  # steps whose random widths are drawn


NETWORK: Mapping[str, tuple[str, ...]] = {
    "sr": ("model", "scale", "features", "blocks", "expansion", "divisor"),
    "classification": ("model", "multiplier", "divisor", "size", "variant"),
    "detection": ("head", "model", "multiplier", "divisor", "pyramid", "hidden", "anchor", "sides", "proposals"),
}
"""The settings of a task that say which network it is."""


def training_macs(settings: RunSettings) -> float:
    """Multiply-adds of all trainings of a run of images; recipes that share a trained network count once.

    Random widths count as they are expected; calibration, searches and scoring are left out.
    """
    trained = {settings.training_hash_of(recipe): recipe for recipe in settings.recipes}
    firsts = {settings.first_hash_of(recipe): recipe for recipe in settings.recipes if recipe.search is not None}
    widths, images = settings.task_settings["widths"], settings.steps * settings.task_settings["batch"]
    network = _network(settings.task, settings.task_settings)
    of_images = sum(_of_image(recipe, network, widths) for recipe in trained.values())
    of_images += sum(network.at(1.0) if r.order is not None else _of_rule(r, network) for r in firsts.values())
    return float(len(settings.seeds) * images * of_images * FORWARD_AND_BACKWARD)


def _of_image(recipe: Recipe, network: _Counted, widths: Sequence[float]) -> float:
    """Multiply-adds of the forward passes of one step for one image; without those of the network it begins with."""
    if recipe.budgets is not None:
        retrained = recipe.retrained or 1.0 if recipe.retrain is not None else 0.0
        return _within(recipe, network) * (1.0 if recipe.kind == "individual" else retrained)
    if recipe.kind == "individual":
        return sum(network.at(width) for width in widths)
    return _of_rule(recipe, network)


def _within(recipe: Recipe, network: _Counted) -> float:
    """Of one pass at each budget; one that is no number of multiply-adds counts as the full network."""
    full = float(network.at(1.0))
    budgets = recipe.points_within().values()
    return sum(b.amount * full if b.share else b.amount if b.unit == "macs" else full for b in budgets)


def _of_rule(recipe: Recipe, network: _Counted) -> float:
    if recipe.rule == "every":
        return sum(network.at(width) for width in recipe.switches or ())
    if recipe.rule == "nonuniform":
        # Random plans count as random widths: their layers' widths are less alike, so it is somewhat too much.
        samples = recipe.of_rule()["samples"]
        recipe = Recipe(recipe.name, range=recipe.range, rule="sandwich", samples=samples)
    return _expected(recipe.make_rule(seed=0), network)


def _expected(rule: Rule, network: _Counted) -> float:
    drawn = [float(width) for _ in range(DRAWS) for width in rule.draw()]  # type: ignore[arg-type]
    return float(network.near(np.array(drawn)).sum()) / DRAWS


class _Counted:
    """Multiply-adds of a task's network for one image, by width."""

    def __init__(self, task: Problem) -> None:
        self._task = task
        self._counts: dict[float, int] = {}
        self._fit = np.polynomial.Polynomial.fit(POINTS, [self.at(width) for width in POINTS], 2)

    def at(self, width: float) -> int:
        """As counted on the network of this width."""
        if width not in self._counts:
            with torch.device("meta"):  # only shapes matter
                net, example = self._task.build(width), self._task.example()
            self._counts[width] = slim.cost(net, example).macs
        return self._counts[width]

    def near(self, widths: NDArray[np.float64]) -> NDArray[np.float64]:
        """As the counts at a few widths have them."""
        return self._fit(widths)


def _network(task: str, settings: Mapping[str, Any]) -> _Counted:
    decides = (*NETWORK[task], *{"sr": ("patch",), "detection": ("sampled",)}.get(task, ()))
    return _counted(task, tuple((key, settings[key]) for key in decides))


@cache
def _counted(task: str, settings: tuple[tuple[str, Any], ...]) -> _Counted:
    if task == "sr":
        return _Counted(UpscalersAlone(SrSettings(**dict(settings))))
    if task == "detection":
        from benchmarks.papers.detectors import detectors_alone  # its packages are an extra

        return _Counted(detectors_alone(dict(settings)))
    return _Counted(ClassifiersAlone(ClassificationSettings(**dict(settings), data="digits")))
