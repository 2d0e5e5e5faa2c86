"""The training of a recipe's policies: the algorithm's own loop, followed, interrupted and resumed between rollouts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from tasks.points import AS_IT_IS, OperatingPoint, PerInput, PointResult, Spent, by_cost, name_of_width, result_at
from tasks.rl.deciding import rules_of_policy
from tasks.rl.environments import make_environments
from tasks.rl.evaluation import Judge, mean
from tasks.rl.models import Scores, acting_cost, make_model, one_observation
from tasks.rl.searching import searched_plans
from tasks.rl.settings import RlSettings
from tasks.rl.state import load_draws, load_training_state, training_state
from tasks.training.recipe import Recipe
from tasks.training.run import Interrupted, TrainingFailed, TrainingRun, derive_seed
from tasks.training.saved import Saved, UnusableState, read_saved
from tasks.training.tuning import Values, after_trials, choose

METRIC = "return"
SHOWN_EVERY = 0.2  # seconds between two calls of `watch.step`; a rollout of DQN is a single step

Curves = dict[str, list[list[float]]]
"""Name of an operating point -> [steps trained, mean return]."""


def train_policies(
    settings: RlSettings, recipe: Recipe, run: TrainingRun, prepare: Callable[[Any], None] = lambda _: None
) -> list[PointResult]:
    """Train and score all policies of a recipe, from its checkpoint if there is one.

    Args:
        settings, recipe, run: what is trained, and how.
        prepare: called with each model before it learns.

    Returns:
        A result for each operating point, cheapest first: the same whether or not the run was interrupted,
        where the environments can be put back (see tasks.rl.replay).

    Raises:
        Interrupted: `run.watch.stop` asked for it.
        TrainingFailed: a policy's weights or returns are not finite.
    """
    if recipe.tune is None:
        return _trained(_Loop(settings, recipe, run, Judge(settings), prepare=prepare))

    def trial(values: Values, own: TrainingRun, width: float | None) -> Mapping[str, float]:
        widths = settings.widths if width is None else (width,)
        tried = settings.tuned(values).replace(widths=widths, curve_points=0)
        judge = Judge(tried, "tuning")
        returns = {result.point: result for result in _trained(_Loop(tried, recipe, own, judge))}
        return {point: -result.metrics[settings.environment][METRIC] for point, result in returns.items()}

    networks = recipe.networks(settings)
    chosen = choose(recipe, networks, run, trial)
    rest = after_trials(recipe, networks, run)
    results = _trained(_Loop(settings, recipe, rest, Judge(settings), chosen.values, prepare))
    own = {result.point: result.width if recipe.kind == "individual" else None for result in results}
    return [replace(result, found=chosen.found(own[result.point])) for result in results]


def _trained(loop: _Loop) -> list[PointResult]:
    run = loop.run
    try:
        return _train_all(loop, read_saved(run.checkpoint))
    except UnusableState as unusable:
        assert run.checkpoint is not None
        run.checkpoint.set_aside(unusable.reason)
        return _train_all(loop, Saved())
    finally:
        loop.judge.close()


@dataclass(frozen=True)
class _Loop:
    settings: RlSettings
    recipe: Recipe
    run: TrainingRun
    judge: Judge
    values: Callable[[float | None], Values] = lambda _: {}
    prepare: Callable[[Any], None] = lambda _: None


def _train_all(loop: _Loop, saved: Saved) -> list[PointResult]:
    results, checkpoint = list(saved.results), loop.run.checkpoint
    networks = loop.recipe.networks(loop.settings)
    for number, width in enumerate(networks[saved.finished :], start=saved.finished):
        before = saved.training if number == saved.finished else None
        own = replace(loop, settings=loop.settings.tuned(loop.values(width)))
        results += _train_one(own, width, before, number, results)
        if checkpoint is not None and number < len(networks) - 1:
            checkpoint.write(Saved(number + 1, results).state())
    return sorted(results, key=by_cost)


def _train_one(
    loop: _Loop, width: float | None, before: Mapping[str, Any] | None, number: int, results: list[PointResult]
) -> list[PointResult]:
    settings, run, seed = loop.settings, loop.run, derive_seed(loop.run.seed, "policy")
    environments = make_environments(settings, seed=seed, count=settings.environments, training=True)
    try:
        model = make_model(settings, loop.recipe, width, environments, seed=seed, device=run.device)
        acting_cost(model, None)  # a policy that cannot be counted fails here, and not after its training
        loop.prepare(model)
        follow = Follow(loop, width, number, results)
        if before is not None:
            _load(run, model, follow, before)
        if loop.recipe.per_input is not None:
            return _at_rules(loop, model, lambda: _learn(run, model, follow, before))
        if loop.recipe.search is not None:
            return _at_found_plans(loop, model, lambda: _learn(run, model, follow, before))
        _learn(run, model, follow, before)
        run.watch.trained(width, model)
        found = [_score(loop, model, point, follow.curves[name]) for name, point in follow.points.items()]
        return found if width is None else [replace(found[0], point=name_of_width(width), width=width)]
    finally:
        environments.close()


def _learn(run: TrainingRun, model: Any, follow: Follow, before: Mapping[str, Any] | None) -> None:
    try:
        model.learn(run.steps - model.num_timesteps, callback=follow, reset_num_timesteps=before is None)
    except ValueError as error:  # torch's distributions refuse parameters that are not finite
        raise TrainingFailed(f"at step {model.num_timesteps}: {error}") from error


def _at_found_plans(loop: _Loop, model: Any, learn: Callable[[], None]) -> list[PointResult]:
    """Search in the policy, which is trained by the first recipe that needs it, and score the plans."""
    first = loop.run.first
    if first is None or first.trained is None:
        learn()
    else:
        with first.alone("policy"):
            trained = first.trained.read()
            if trained is None:
                learn()
                first.trained.write(training_state(model))
            else:
                load_training_state(model, trained)
    found = searched_plans(model, loop.recipe, loop.judge, loop.run)
    results = []
    for name, one in zip(loop.recipe.points_within(), found, strict=True):
        result = _score(loop, model, OperatingPoint(name, one.plan), [])
        about = {"held_out_loss": one.score, "evaluations": float(found.evaluations)}
        results.append(replace(result, curve={}, found=about))
    return results


def _at_rules(loop: _Loop, model: Any, learn: Callable[[], None]) -> list[PointResult]:
    """Find rules that choose a width for each state, in the policy that recipes share, and score them."""
    kept = loop.run.trained
    trained = None if kept is None else kept.read()
    if trained is None:
        learn()
        if kept is not None:
            kept.write(training_state(model))
    else:
        load_training_state(model, trained)
    results = []
    finder = rules_of_policy(model, loop.recipe, loop.judge, loop.run, model.env)
    for point in finder.points():
        returns = loop.judge.returns(model, point, loop.settings.episodes, model.env)
        spent = point.spent(Scores(model), one_observation(model.observation_space, model.device))
        name = loop.settings.environment
        result = result_at(point, spent, {name: {METRIC: mean(returns)}}, samples={name: {METRIC: returns}})
        results.append(replace(result, **finder.milliseconds(point)))
    loop.run.watch.trained(None, model)
    return results


def _load(run: TrainingRun, model: Any, follow: Follow, before: Mapping[str, Any]) -> None:
    try:
        lost = load_training_state(model, before["model"])
        follow.draws = before["model"]["draws"]
        follow.curves = {name: [list(p) for p in before["curves"][name]] for name in follow.points}
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UnusableState(error) from error
    if lost is not None and run.checkpoint is not None:
        run.checkpoint.warn(lost)


def _score(loop: _Loop, model: Any, point: OperatingPoint, curve: list[list[float]]) -> PointResult:
    returns = loop.judge.returns(model, point, loop.settings.episodes, model.env)
    if not all(map(math.isfinite, returns)):
        raise TrainingFailed(f"a return is not finite at {point.label}")
    assert not isinstance(point.what, PerInput)  # the judge has refused it
    cost = acting_cost(model, point.what)
    name, points = loop.settings.environment, [*curve, [model.num_timesteps, mean(returns)]]
    return result_at(
        point,
        Spent(float(cost.macs), cost.params),
        {name: {METRIC: mean(returns)}},
        samples={name: {METRIC: returns}},
        curve={name: {METRIC: points}},
    )


class Follow(BaseCallback):
    """Called by the algorithm before each rollout, when nothing is half done: shows, evaluates, writes checkpoints."""

    def __init__(self, loop: _Loop, width: float | None, number: int, results: list[PointResult]) -> None:
        super().__init__()
        self.loop, self.number, self.results = loop, number, results
        found = loop.recipe.search is not None or loop.recipe.per_input is not None
        scored = [] if found else loop.recipe.points(loop.settings) if width is None else [AS_IT_IS]
        self.points = {point.name: point for point in scored}
        self.curves: Curves = {name: [] for name in self.points}
        self.draws: Mapping[str, Any] | None = None  # of the checkpoint that the training was resumed from
        self._shown = 0.0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        run, done = self.loop.run, self.model.num_timesteps
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
            state = {"model": training_state(self.model), "curves": self.curves}
            checkpoint.write(Saved(self.number, self.results, state).state())
        if stop:
            raise Interrupted

    def _due(self, done: int) -> bool:
        """Whether the next point of the learning curve is reached; the last is the final score."""
        points = self.loop.settings.curve_points
        if points < 2 or not self.curves:
            return False
        curve = next(iter(self.curves.values()))
        if curve and curve[-1][0] == done:  # measured already, before the checkpoint that this goes on from
            return False
        return len(curve) < points - 1 and done >= self.loop.run.steps * (len(curve) + 1) / points

    def _extend_curves(self, done: int) -> None:
        judge, episodes = self.loop.judge, self.loop.settings.curve_episodes
        for name, curve in self.curves.items():
            curve.append([done, mean(judge.returns(self.model, self.points[name], episodes, self.model.env))])
        self.model.policy.set_training_mode(False)

    def _recent_return(self) -> float:
        """Of the training episodes, over all copies of the environment, exploration included."""
        recent = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        return float(np.mean(recent)) if recent else math.nan
