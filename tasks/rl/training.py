"""The training of a recipe's policies: the algorithm's own loop, followed, interrupted and resumed between rollouts."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from slimlib.core.width import Width
from tasks.rl.environments import make_environments
from tasks.rl.evaluation import Judge, mean
from tasks.rl.models import acting_cost, make_model
from tasks.rl.settings import RlSettings
from tasks.rl.state import load_draws, load_training_state, training_state
from tasks.training.checkpoint import Checkpoint
from tasks.training.recipe import Recipe
from tasks.training.saved import Saved, UnusableState, read_saved
from tasks.training.scoring import TrainingFailed, WidthResult
from tasks.training.seeds import derive_seed
from tasks.training.supervised import Interrupted, Watch, networks_of

METRIC = "return"
SHOWN_EVERY = 0.2  # seconds between two calls of `watch.step`; a rollout of DQN is a single step

Curves = dict[float, list[list[float]]]
"""Width -> [steps trained, mean return]."""


def train_policies(
    settings: RlSettings,
    recipe: Recipe,
    *,
    steps: int,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint | None,
    watch: Watch,
) -> list[WidthResult]:
    """Train and score all policies of a recipe, from its checkpoint if there is one.

    Args:
        steps: of the environments, all copies together, for each policy alike.
        seed: decides weights, actions, environments and random widths.

    Returns:
        A result for each evaluated width, narrowest first: the same whether or not the run was interrupted,
        where the environments can be put back (see tasks.rl.replay).

    Raises:
        Interrupted: `watch.stop` asked for it.
        TrainingFailed: a policy's weights or returns are not finite.
    """
    run = _Run(settings, recipe, steps, seed, device, checkpoint, watch, Judge(settings))
    try:
        return _train_all(run, read_saved(checkpoint))
    except UnusableState as unusable:
        assert checkpoint is not None
        checkpoint.set_aside(unusable.reason)
        return _train_all(run, Saved())
    finally:
        run.judge.close()


@dataclass(frozen=True)
class _Run:
    settings: RlSettings
    recipe: Recipe
    steps: int
    seed: int
    device: torch.device
    checkpoint: Checkpoint | None
    watch: Watch
    judge: Judge


def _train_all(run: _Run, saved: Saved) -> list[WidthResult]:
    results = list(saved.results)
    networks = networks_of(run.recipe, run.settings)
    for number, width in enumerate(networks[saved.finished :], start=saved.finished):
        before = saved.training if number == saved.finished else None
        results += _train_one(run, width, before, number, results)
        if run.checkpoint is not None and number < len(networks) - 1:
            run.checkpoint.write(Saved(number + 1, results).state())
    return sorted(results, key=lambda result: result.width)


def _train_one(
    run: _Run, width: float | None, before: Mapping[str, Any] | None, number: int, results: list[WidthResult]
) -> list[WidthResult]:
    settings, seed = run.settings, derive_seed(run.seed, "policy")
    environments = make_environments(settings, seed=seed, count=settings.environments, training=True)
    try:
        model = make_model(settings, run.recipe, width, environments, seed=seed, device=run.device)
        follow = Follow(run, width, number, results)
        if before is not None:
            _load(run, model, follow, before)
        try:
            model.learn(run.steps - model.num_timesteps, callback=follow, reset_num_timesteps=before is None)
        except ValueError as error:  # torch's distributions refuse parameters that are not finite
            raise TrainingFailed(f"at step {model.num_timesteps}: {error}") from error
        run.watch.trained(width, model)
        return [_score(run, model, shown, follow) for shown in follow.widths]
    finally:
        environments.close()


def _load(run: _Run, model: Any, follow: Follow, before: Mapping[str, Any]) -> None:
    try:
        lost = load_training_state(model, before["model"])
        follow.draws = before["model"]["draws"]
        follow.curves = {float(w): [list(p) for p in points] for w, points in before["curves"].items()}
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UnusableState(error) from error
    if lost is not None and run.checkpoint is not None:
        run.checkpoint.warn(lost)


def _score(run: _Run, model: Any, width: float, follow: Follow) -> WidthResult:
    set_to = follow.set_to(width)
    returns = run.judge.returns(model, set_to, run.settings.episodes, model.env)
    if not all(map(math.isfinite, returns)):
        raise TrainingFailed(f"a return is not finite at width {width:g}")
    cost = acting_cost(model, set_to)
    name = run.settings.environment
    points = [*follow.curves.get(width, []), [model.num_timesteps, mean(returns)]]
    return WidthResult(
        width,
        cost.macs,
        cost.params,
        {name: {METRIC: mean(returns)}},
        {name: {METRIC: returns}},
        {name: {METRIC: points}},
    )


class Follow(BaseCallback):
    """Called by the algorithm before each rollout, when nothing is half done: shows, evaluates, writes checkpoints."""

    def __init__(self, run: _Run, width: float | None, number: int, results: list[WidthResult]) -> None:
        super().__init__()
        self.run, self.number, self.results = run, number, results
        self.slimmable = width is None
        self.widths = run.recipe.evaluated(run.settings) if width is None else (width,)
        self.curves: Curves = {w: [] for w in self.widths}
        self.draws: Mapping[str, Any] | None = None  # of the checkpoint that the training was resumed from
        self._shown = 0.0

    def set_to(self, width: float) -> Width | None:
        """What the model is set to for a width; None: an ordinary one has no other."""
        return width if self.slimmable else None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        run, done = self.run, self.model.num_timesteps
        if self.draws is not None:
            load_draws(self.model, self.draws)
            self.draws = None
        if not 0 <= time.monotonic() - self._shown <= SHOWN_EVERY:
            self._shown = time.monotonic()
            run.watch.step(self.number * run.steps + min(done, run.steps), self._recent_return())
        if self._due(done):
            self._extend_curves(done)
        stop, checkpoint = run.watch.stop(), run.checkpoint
        if checkpoint is not None and (stop or checkpoint.due()):
            state = {
                "model": training_state(self.model),
                "curves": {str(w): points for w, points in self.curves.items()},
            }
            checkpoint.write(Saved(self.number, self.results, state).state())
        if stop:
            raise Interrupted

    def _due(self, done: int) -> bool:
        """Whether the next point of the learning curve is reached; the last is the final score."""
        points = self.run.settings.curve_points
        if points < 2:
            return False
        curve = next(iter(self.curves.values()))
        if curve and curve[-1][0] == done:  # measured already, before the checkpoint that this goes on from
            return False
        return len(curve) < points - 1 and done >= self.run.steps * (len(curve) + 1) / points

    def _extend_curves(self, done: int) -> None:
        judge, episodes = self.run.judge, self.run.settings.curve_episodes
        for width, curve in self.curves.items():
            returns = judge.returns(self.model, self.set_to(width), episodes, self.model.env)
            curve.append([done, mean(returns)])
        self.model.policy.set_training_mode(False)

    def _recent_return(self) -> float:
        """Of the training episodes, over all copies of the environment, exploration included."""
        recent = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        return float(np.mean(recent)) if recent else math.nan
