"""A width for each state of a policy: rules that are found on states of episodes that neither train nor judge it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

import slimlib as slim
from slimlib.dynamic.cascade import Answer
from tasks.points import OperatingPoint
from tasks.rl.evaluation import Judge
from tasks.rl.models import Scores
from tasks.training.gating import train_gate
from tasks.training.per_input import RuleFinder
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun, derive_seed
from tasks.training.supervised import Loop
from tasks.training.width_rules import Constant

EPISODES = 8
"""Whose states are looked at."""
BATCH = 64
GATE_STEPS = 400
HIDDEN = 32
"""Units of a gate that sees no more than an observation."""


class States:
    """Observations, and the actions that the full width takes there: what rules are found on, in place of a task."""

    def __init__(self, scores: Scores, seen: Tensor) -> None:
        self.scores, self.seen = scores, seen
        with torch.no_grad(), slim.at_width(scores, 1.0):
            self.actions = torch.cat([scores(part).argmax(1) for part in seen.split(1024)])

    def example(self) -> Tensor:
        """One observation."""
        return self.seen[:1]

    def batches(self, steps: range, seed: int, **_: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Random states of each step."""
        for step in steps:
            generator = torch.Generator().manual_seed(derive_seed(seed, f"step {step}"))
            chosen = torch.randint(len(self.seen), (BATCH,), generator=generator).to(self.seen.device)
            yield self.seen[chosen], self.actions[chosen]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """How unlikely the full width's action is."""
        return F.cross_entropy(output, target)


class _Record(Constant):
    """The full width, whose states are kept."""

    def __init__(self) -> None:
        super().__init__([1.0])
        self.seen: list[Tensor] = []

    def answer(self, net: nn.Module, *inputs: Any) -> Answer:
        self.seen.append(inputs[0].clone())
        return super().answer(net, *inputs)


class PolicyRuleFinder(RuleFinder):
    """As for other tasks; a gate looks at the observation itself."""

    def rules(self) -> Callable[[float], Any]:
        if self.recipe.per_input != "gate":
            return super().rules()
        states: Any = self.loop.task
        channels = states.seen.shape[1]
        torch.manual_seed(derive_seed(self.run.seed, "gate"))
        gate = slim.SlimmingGate(channels, len(self.widths), reduction=min(4.0, HIDDEN / channels), attention=False)
        gated = slim.Gated(_AsFloat(), self.net, gate.to(self.run.device), self.widths)
        return self.by_gate(train_gate(self.loop, self.net, self.widths, gated=gated, steps=GATE_STEPS))


class _AsFloat(nn.Module):
    """Observations as the gate and the policy can both take them."""

    def forward(self, seen: Tensor) -> Tensor:
        return seen.float()


def rules_of_policy(
    model: Any, recipe: Recipe, judge: Judge, run: TrainingRun, training: VecEnv | None
) -> PolicyRuleFinder:
    """What finds the rules of a recipe that chooses a width for each state.

    training: environments whose statistics normalise the observations.
    """
    record = _Record()
    seeds = [derive_seed(i, "episode of states for rules") for i in range(EPISODES)]
    judge.returns(model, OperatingPoint("states", record), EPISODES, training, seeds=seeds)
    scores = Scores(model)
    seen = torch.cat(record.seen)
    order = torch.from_numpy(np.random.default_rng(run.seed).permutation(len(seen)))
    learned, held_out = (States(scores, seen[part]) for part in order.chunk(2))
    loop = Loop(learned, recipe, replace(run, checkpoint=None, trained=None))  # type: ignore[arg-type]
    return PolicyRuleFinder(loop, held_out, scores.eval(), sorted(recipe.evaluated(judge.settings)))  # type: ignore[arg-type]
