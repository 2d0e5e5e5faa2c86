"""Recipes that choose a width for each input: one network, and rules found on training data that it did not see."""

from __future__ import annotations

import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import slimlib as slim
from slimlib.core.arguments import arguments
from slimlib.core.width import Width, WidthRange
from slimlib.dynamic.confidence import CONFIDENCES
from slimlib.dynamic.fitting import CascadeFitter
from slimlib.search.budgets import Budget
from slimlib.serving.cost import wait_for
from tasks.points import OperatingPoint, PointResult, by_cost
from tasks.training.gating import train_gate
from tasks.training.problem import HELD_OUT, Problem
from tasks.training.recipe import Recipe
from tasks.training.run import Interrupted, TrainingRun, derive_seed
from tasks.training.scoring import calibrate, checked, example_on, measured
from tasks.training.supervised import Loop, trained_once
from tasks.training.width_rules import AtRandom, ByConfidence, ByGate, Constant, Counted, Oracle, WidthRule

FITTED_ON = 20  # batches of what was held out
SEARCHED_ON = 8  # batches that plans are scored on, and as many that their statistics are of
TIMED_AT = (1, 8, 64)
ALONE = 16  # inputs that are timed one by one
ROUNDS = 5


def train_per_input(
    task: Problem, recipe: Recipe, run: TrainingRun, finder: Callable[..., RuleFinder]
) -> list[PointResult]:
    """Train the network of a recipe without the data that are held out, find its rules on these, and score them.

    Returns:
        A result for each mean cost, cheapest first, with the share of the inputs at each width, and the milliseconds
        of an input, routing included, in batches of 1, 8 and 64.

    Raises:
        ValueError: several ranks.
        Interrupted, TrainingFailed, HostileCheckpointError: as `tasks.training.supervised.train_recipe`.
    """
    if run.ranks.count > 1:
        raise ValueError(f"recipe '{recipe.name}' chooses widths in one process; start without torchrun")
    learned, held_out = task.split(HELD_OUT)
    loop = Loop(learned, recipe, run)
    net = trained_once(loop)
    widths = sorted(recipe.evaluated(task))
    needed = [OperatingPoint.of_width(width) for width in widths]
    calibrate(learned, recipe, net, needed, derive_seed(run.seed, "calibration"), run.device, run.ranks)
    found = finder(loop, held_out, net.eval(), widths)
    points = found.points()
    results = measured(task, net, points)
    timed = [replace(one, **found.milliseconds(point)) for one, point in zip(results, points, strict=True)]
    run.watch.trained(None, net)
    return sorted(checked(timed), key=by_cost)


def rule_of(task: Problem, recipe: Recipe, net: nn.Module, finder: Callable[..., RuleFinder]) -> Any:
    """The rule of a recipe at its middle cost, found again for a trained network; to look at, not to measure."""
    learned, held_out = task.split(HELD_OUT)
    loop = Loop(learned, recipe, TrainingRun(1, seed=0))
    return finder(loop, held_out, net.eval(), sorted(recipe.evaluated(task))).middle()


class RuleFinder:
    """Finds the rules of a recipe, and times them; a task may have its own."""

    def __init__(self, loop: Loop, held_out: Problem, net: nn.Module, widths: Sequence[float]) -> None:
        self.loop, self.recipe, self.run, self.net, self.widths = loop, loop.recipe, loop.run, net, widths
        self.held_out = held_out
        self.example = example_on(loop.task, loop.run.device)
        self.cost = Counted()
        self.full = self.macs(1.0)

    def macs(self, width: Width) -> float:
        """Multiply-adds of the example."""
        return float(self.cost(self.net, self.example, width).macs)

    def points(self) -> list[OperatingPoint]:
        """One for each mean cost that can be kept; of uniform widths also those that are evaluated."""
        if self.recipe.per_input == "oracle" and self.recipe.costs is None:
            return [OperatingPoint("oracle", Oracle(self.widths))]
        make = self.rules()
        found = [(cost, make(cost)) for cost in self.recipe.costs or ()]
        for _, rule in found:
            if isinstance(rule, WidthRule):
                rule.cost = self.cost
        points = [OperatingPoint(f"cost {cost:g}", rule) for cost, rule in found if rule is not None]
        if self.recipe.per_input == "uniform":
            points += [OperatingPoint.of_width(width) for width in self.widths]
        if not points:
            costs = list(self.recipe.costs or ())
            raise ValueError(f"recipe '{self.recipe.name}': no mean cost of {costs} can be kept")
        return points

    def middle(self) -> WidthRule:
        """The rule at the middle cost."""
        rules = [point.what for point in self.points() if isinstance(point.what, WidthRule)]
        return rules[len(rules) // 2]

    def rules(self) -> Callable[[float], Any]:
        """From a mean cost to the rule that keeps it; None where that cannot be."""
        if self.recipe.per_input in CONFIDENCES:
            return self._cascade()
        if self.recipe.per_input == "gate":
            return self._gate()
        if self.recipe.per_input == "searched":
            return self._searched()
        own: dict[str, Callable[[float], Any]] = {"uniform": self.uniform, "random": self._random}
        if self.recipe.per_input not in own:
            raise ValueError(f"per_input: {self.recipe.per_input} has no meaning for this task")
        return own[self.recipe.per_input]

    def _held_out_batches(self) -> list[tuple[Any, Any]]:
        seed = derive_seed(self.run.seed, "fitting of rules")
        return list(self.held_out.batches(range(FITTED_ON), seed, device=self.run.device, augmented=False))

    def _cascade(self) -> Callable[[float], ByConfidence | None]:
        inputs, targets = zip(*self._held_out_batches(), strict=True)
        fitted = CascadeFitter(self.net, self.widths, inputs, targets, confidence=str(self.recipe.per_input))
        narrowest = self.macs(self.widths[0])
        return lambda cost: ByConfidence(fitted(Budget(cost * self.full))) if cost * self.full >= narrowest else None

    def _gate(self) -> Callable[[float], ByGate | None]:
        return self.by_gate(train_gate(self.loop, self.net, self.widths))

    def by_gate(self, gated: slim.Gated) -> Callable[[float], ByGate | None]:
        """The prices at which a trained gate keeps mean costs."""
        macs = gated.macs(*arguments(gated, self.example))
        price_for = gated.price_finder([x for x, _ in self._held_out_batches()], macs)

        def within(cost: float) -> ByGate | None:
            price = price_for(cost * self.full)
            return None if price is None else ByGate(gated, price, macs)

        return within

    def _searched(self) -> Callable[[float], Constant | None]:
        """One plan for all inputs: the best static rule that the same network has, by greedy search."""
        task, seed = self.loop.task, derive_seed(self.run.seed, "calibration of searches")
        learned = list(task.batches(range(SEARCHED_ON), seed, device=self.run.device, augmented=False))
        scored = self._held_out_batches()[:SEARCHED_ON]

        def loss(net: nn.Module) -> float:
            if self.run.watch.stop():
                raise Interrupted
            found = [self.held_out.loss(net(*arguments(net, inputs)), target) for inputs, target in scored]
            return statistics.fmean(map(float, found))

        narrowest = self.macs(self.widths[0])
        budgets = [cost for cost in self.recipe.costs or () if cost * self.full >= narrowest]
        if not budgets:
            return lambda cost: None
        found = slim.search(
            self.net, loss, budgets, example=self.example, calibrate=[x for x, _ in learned], seed=self.run.seed
        )
        plans = {cost: one.plan for cost, one in zip(budgets, found, strict=True)}
        self._calibrate(list(plans.values()))
        return lambda cost: Constant([plans[cost]]) if cost in plans else None

    def uniform(self, cost: float) -> Constant | None:
        """The widest width that costs no more."""
        allowed = self.recipe.widths()
        if isinstance(allowed, WidthRange):
            steps = [allowed.smallest + (allowed.largest - allowed.smallest) * i / 256 for i in range(257)]
        else:
            steps = [float(w) for w in allowed.widths if isinstance(w, float)]
        place = bisect_right(steps, cost * self.full, key=self.macs)
        if not place:
            return None
        self._calibrate([steps[place - 1]])
        return Constant([steps[place - 1]])

    def _random(self, cost: float) -> AtRandom | None:
        """The two neighbours of a cost, mixed."""
        costs = [self.macs(width) / self.full for width in self.widths]
        if cost < costs[0]:
            return None
        above = next((i for i, each in enumerate(costs) if each >= cost), len(costs) - 1)
        below = max(above - 1, 0)
        gap = costs[above] - costs[below]
        share = (cost - costs[below]) / gap if gap else 0.0
        return AtRandom([self.widths[below], self.widths[above]], share, derive_seed(self.run.seed, "random widths"))

    def _calibrate(self, widths: Sequence[Width]) -> None:
        points = [OperatingPoint("rule", width) for width in widths]
        seed = derive_seed(self.run.seed, "calibration")
        calibrate(self.loop.task, self.recipe, self.net, points, seed, self.run.device, self.run.ranks)

    def milliseconds(self, point: OperatingPoint) -> dict[str, Any]:
        """Of an input in batches of several sizes, by a frozen network, on held-out inputs as they are."""
        if isinstance(point.what, Oracle):
            return {}
        device, seed, found, count = self.run.device, derive_seed(0, "timing"), [], 0
        for inputs, _ in self.held_out.batches(range(max(TIMED_AT)), seed, device=device, augmented=False):
            found.append(inputs)
            count += len(inputs)
            if count >= max(TIMED_AT):
                break
        every: Tensor = torch.cat(found)[: max(TIMED_AT)]
        rule = point.what if isinstance(point.what, WidthRule) else Constant(point.widths)
        serve = rule.served_by(self.net)
        times = {str(size): _time(serve, every[: size * ALONE], size, device) for size in TIMED_AT}
        return {"milliseconds": times["1"], "at_batch": times}


def _time(serve: Callable[..., Any], every: Tensor, size: int, device: torch.device) -> float:
    """Median over the rounds of the milliseconds of an input."""
    batches = tree_map_only(Tensor, lambda tensor: tensor.split(size), every)
    rounds = []
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):
            wait_for(device)
            begin = time.perf_counter()
            for batch in batches:
                serve(batch)
            wait_for(device)
            rounds.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(rounds[1:]) / len(every)
