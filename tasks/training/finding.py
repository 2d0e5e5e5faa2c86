"""Order the channels of a trained network and find plans in it, by losses on training data that were held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
from torch import nn

import slimlib as slim
from slimlib.core.setting import slimming_of
from slimlib.search.budgets import read_budgets
from slimlib.search.plan_file import FoundPlans
from slimlib.search.scores import ChannelScores
from tasks.training.choosing import SEARCHES
from tasks.training.problem import Problem
from tasks.training.run import Interrupted, derive_seed
from tasks.training.scoring import example_on
from tasks.training.supervised import Loop

T = TypeVar("T")


class Finder:
    """Searches as a recipe says.

    Args:
        loop: of the recipe; its task has the data that were learned from, which statistics are computed from.
        held_out: has those that were not.
        files: what the names of its files begin with; None: it writes none.
    """

    def __init__(self, loop: Loop, held_out: Problem, files: Path | None) -> None:
        self.recipe, self.run, self.task, self.held_out, self.files = loop.recipe, loop.run, loop.task, held_out, files
        self.effort = loop.recipe.in_force()
        self.learned_by = 0  # rankings that were tried
        self.example = example_on(loop.task, loop.run.device)

    def sort(self, net: nn.Module) -> ChannelScores | None:
        """Sort the channels of a network by the order of the recipe; returns the scores in the new order, if any."""
        order = self.recipe.order
        if order == "trained":
            return None
        if order == "learned":
            scores = self.learned(net)
        elif order == "shuffled":
            scores = self._shuffled(net)
        elif order == "taylor":
            scores = slim.channel_scores(net, "taylor", batches=self._learned_from, loss=self._loss)
        else:
            scores = slim.channel_scores(net, str(order))
        return slim.sort_channels(net, scores)

    def learned(self, net: nn.Module) -> ChannelScores:
        """The ranking learned for the hardest budget; of a network that was trained narrow, its order stays."""
        self.learned_by = self.effort["evaluations"]
        hardest = min(read_budgets(self.recipe.budgets or ()), key=lambda budget: budget.amount)
        return self._kept(
            "ranking",
            lambda path: slim.learned_ranking(
                net,
                self.score,
                hardest,
                example=self.example,
                calibrate=self._calibration,
                order="network" if self.recipe.order is None else "scores",
                evaluations=self.effort["evaluations"],
                path=path,
                seed=self.run.seed,
            ),
        )

    def plans(self, net: nn.Module, ranking: ChannelScores | None) -> FoundPlans:
        """A plan for each budget of the recipe."""
        method, own = SEARCHES[str(self.recipe.search)]
        if self.recipe.search == "learned-ranking" and ranking is None:
            ranking = self.learned(net)
        given: dict[str, Any] = {key: self.effort[key] for key in ("steps", "evaluations", "population")}
        return self._kept(
            "plans",
            lambda path: slim.search(
                net,
                self.score,
                self.recipe.budgets,
                example=self.example,
                method=method,
                calibrate=self._calibration,
                ranking=ranking if method == "ranking" else None,
                path=path,
                seed=self.run.seed,
                progress=lambda progress: self.run.watch.step(self.run.steps, progress.score),
                **given,
                **own,
            ),
        )

    def score(self, net: nn.Module) -> float:
        """The mean loss on what was held out."""
        if self.run.watch.stop():
            raise Interrupted
        return fmean(float(self._loss(net, batch)) for batch in self._scored)

    def _loss(self, net: nn.Module, batch: Any) -> torch.Tensor:
        inputs, target = batch
        return self.task.loss(net(*inputs) if isinstance(inputs, tuple) else net(inputs), target)

    @cached_property
    def _learned_from(self) -> list[Any]:
        return self._batches(self.task, "calibration of searches")

    @cached_property
    def _calibration(self) -> list[Any]:
        return [inputs for inputs, _ in self._learned_from]

    @cached_property
    def _scored(self) -> list[Any]:
        return self._batches(self.held_out, "scoring of searches")

    def _batches(self, task: Problem, purpose: str) -> list[Any]:
        steps, seed = range(self.effort["batches"]), derive_seed(self.run.seed, purpose)
        return list(task.batches(steps, seed, device=self.run.device, augmented=False))

    def _shuffled(self, net: nn.Module) -> ChannelScores:
        generator = torch.Generator().manual_seed(derive_seed(self.run.seed, "shuffled channels"))
        groups = slimming_of(net).layout.groups
        values = tuple(torch.rand(group.units, generator=generator, dtype=torch.double) for group in groups)
        return ChannelScores("chance", tuple(group.name for group in groups), values)

    def _kept(self, what: str, make: Callable[[Path | None], T]) -> T:
        """What recipes with the same search share: it is made once, and goes on where it was interrupted."""
        if self.files is None:
            return make(None)
        decides = [getattr(self.recipe, key) for key in ("search", "budgets", "order", "held_out", "effort")]
        digest = hashlib.sha256(json.dumps([what, *decides]).encode()).hexdigest()[:12]
        name = f"{self.files.name}-{digest}.json"
        assert self.run.first is not None
        with self.run.first.alone(name):
            return make(self.files.with_name(name))
