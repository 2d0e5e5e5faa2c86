"""Plans of policies: their budgets are of acting, their scores of episodes that do not judge them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tasks.points import PointResult
from tasks.rl.evaluation import held_out
from tasks.rl.task import ReinforcementLearning
from tasks.training.checkpoint import Checkpoint
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun, Watch
from tests.extent import one_by_day
from tests.tasks.rl.test_training import SETTINGS, STEPS

EFFORT = {"steps": 4, "evaluations": 3, "population": 2, "batches": 1}
GREEDY = Recipe(
    "greedy", range=(0.25, 1.0), rule="sandwich", samples=3, search="greedy", budgets=(0.6, 0.3), effort=EFFORT
)


def trained(algorithm: str, recipe: Recipe, **run: Any) -> list[PointResult]:
    return ReinforcementLearning(SETTINGS[algorithm]).train(recipe, TrainingRun(STEPS, 0, **run))


@cache
def greedy(algorithm: str) -> list[PointResult]:
    return trained(algorithm, GREEDY)


@pytest.mark.parametrize("algorithm", one_by_day(["ppo", "dqn", "sac"]))
def test_plans_cost_what_acting_may(algorithm: str) -> None:
    full = trained(algorithm, Recipe("one", kind="individual"))[-1]
    results = greedy(algorithm)
    assert [result.point for result in results] == ["budget 0.3", "budget 0.6"]
    assert all(r.macs <= share * full.macs for r, share in zip(results, (0.3, 0.6), strict=True))
    assert all(result.found["evaluations"] > 1 and not result.curve for result in results)


def test_plans_are_not_scored_on_what_judges_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import tasks.rl.evaluation as evaluation

    played: list[tuple[int, ...]] = []
    play = evaluation.play

    def noted(predict: Any, environments: Any, seeds: Any, **more: Any) -> Any:
        played.append(tuple(seeds))
        return play(predict, environments, seeds, **more)

    monkeypatch.setattr(evaluation, "play", noted)
    results = trained("ppo", GREEDY)
    searching, judging = set(played[: -len(results)]), set(played[-len(results) :])
    assert judging == {tuple(held_out(3))} and len(searching) == 1
    assert not set(searching.pop()) & set(held_out(1000))


def test_recipes_share_the_policy(tmp_path: Path) -> None:
    steps: list[int] = []

    def run(recipe: Recipe) -> list[PointResult]:
        first = TrainingRun(STEPS, 0, trained=Checkpoint(tmp_path / "policy.pt", "policy"))
        return trained("ppo", recipe, first=first, watch=Watch(step=lambda done, _: steps.append(done)))

    once = run(GREEDY)
    steps.clear()
    assert run(GREEDY) == once == greedy("ppo")
    assert not steps, "the policy is not trained again"
