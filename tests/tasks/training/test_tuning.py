"""Hyperparameters are chosen on held-out training data, and the training with them is an ordinary one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tasks.points import AS_IT_IS, OperatingPoint, PointResult
from tasks.training.checkpoint import Checkpoint
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingFailed, TrainingRun, Watch, derive_seed
from tasks.training.supervised import Loop, start, train_network, train_recipe
from tasks.training.tuned import held_out_losses
from tasks.training.tuning import label_of
from tests.tasks.training.toy import ToyTask

STEPS, RATES = 6, (1e-4, 1e-2, 3e-2)
SANDWICH = Recipe("sandwich", range=(0.5, 1.0), rule="sandwich", samples=3, calibrate=2)
TUNED = SANDWICH.replace(tune={"lr": RATES})
INDIVIDUAL = Recipe("individual", kind="individual", tune={"lr": RATES})


def run(seed: int = 0, **given: Any) -> TrainingRun:
    return TrainingRun(STEPS, seed, **given)


def tried(recipe: Recipe, rate: float, width: float | None, seed: int = 0) -> float:
    """The mean held-out loss of a trial, by hand."""
    learned, held_out = ToyTask().split(0.1)
    loop = Loop(learned.tuned({"lr": rate}), recipe.replace(tune=None), run(derive_seed(seed, "tuning")))
    training = start(loop, width)
    train_network(loop, training)
    losses = held_out_losses(loop, held_out, training.net, width)
    return sum(losses.values()) / len(losses)


def without_found(results: Sequence[PointResult]) -> list[PointResult]:
    return [replace(result, found={}) for result in results]


def test_the_best_value_is_chosen_and_the_training_with_it_is_an_ordinary_one() -> None:
    scores = {rate: tried(TUNED, rate, None) for rate in RATES}
    best = min(scores, key=lambda rate: scores[rate])
    results = ToyTask().train(TUNED, run())
    assert without_found(results) == train_recipe(ToyTask().tuned({"lr": best}), SANDWICH, run())
    assert all(r.found == {"lr": best, "held_out_score": pytest.approx(scores[best]), "trials": 3} for r in results)


def test_individual_networks_have_their_own_best_at_each_width() -> None:
    results = {result.width: result for result in ToyTask().train(INDIVIDUAL, run())}
    for width in ToyTask.widths:
        scores = {rate: tried(INDIVIDUAL, rate, width) for rate in RATES}
        assert results[width].found["lr"] == min(scores, key=lambda rate: scores[rate])
        plain = Recipe("individual", kind="individual")
        of_rate = train_recipe(ToyTask().tuned({"lr": results[width].found["lr"]}), plain, run())
        assert without_found([results[width]]) == [result for result in of_rate if result.width == width]


def test_no_trial_looks_at_the_evaluation_set_or_learns_from_what_it_is_scored_on() -> None:
    seen: list[tuple[str, int]] = []

    class Watched(ToyTask):
        def batches(self, steps: range, seed: int, **given: Any) -> Any:  # type: ignore[override]
            seen.append(("held out" if self.first else "learned", seed))
            return super().batches(steps, seed, **given)

        def evaluate(self, net: nn.Module, points: Sequence[OperatingPoint] = (AS_IT_IS,)) -> Any:
            seen.append(("evaluation", 0))
            return super().evaluate(net, points)

    Watched().train(TUNED.replace(tune_seeds=2), run())
    trials, training = seen[: seen.index(("evaluation", 0))], derive_seed(0, "data")
    scored = [seed for what, seed in trials if what == "held out"]
    assert scored == [derive_seed(derive_seed(n, "tuning"), "scoring of trials") for _ in RATES for n in range(2)]
    assert [("learned", training)] == [one for one in trials if one[1] == training], "once, by the training itself"
    assert seen.count(("evaluation", 0)) == 1


class Killed(Exception):
    pass


@pytest.mark.parametrize("recipe", [TUNED, INDIVIDUAL], ids=lambda r: r.name)
@pytest.mark.parametrize("step", [2, STEPS, 2 * STEPS + 1, 3 * STEPS + 2])
def test_resume_equals_uninterrupted(recipe: Recipe, step: int, tmp_path: Path) -> None:
    def kill(done: int, _: float) -> None:
        if done == step:
            raise Killed

    kept = {"checkpoint": Checkpoint(tmp_path / "run.pt", "run", every=0.0), "tuning": tmp_path / "tuned" / "run.json"}
    with pytest.raises(Killed):
        ToyTask().train(recipe, run(watch=Watch(step=kill), **kept))
    torch.manual_seed(99)
    steps: list[int] = []
    resumed = ToyTask().train(recipe, run(watch=Watch(step=lambda done, _: steps.append(done)), **kept))
    assert resumed == ToyTask().train(recipe, run())
    assert steps[0] in (step, step + 1) and steps == sorted(steps)
    assert steps[-1] == recipe.steps(ToyTask(), STEPS)


def test_seeds_of_a_recipe_share_the_trials(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    first = ToyTask().train(TUNED, run(tuning=path))
    kept = json.loads(path.read_text())
    assert kept["tune"] == {"lr": list(RATES)}
    assert list(kept["scores"]) == [label_of({"lr": rate}, 0, None) for rate in RATES]
    steps: list[int] = []
    second = ToyTask().train(TUNED, run(1, tuning=path, watch=Watch(step=lambda done, _: steps.append(done))))
    assert len(steps) == STEPS and second[0].found == first[0].found and second != first


def test_a_trial_that_fails_is_not_chosen_and_none_left_is_told(tmp_path: Path) -> None:
    class Fails(ToyTask):
        def tuned(self, own: Mapping[str, Any]) -> Fails:  # type: ignore[override]
            made = super().tuned(own)
            made.poison = 2 if own.get("lr", 0) > 0.02 else None
            return made

    results = Fails().train(TUNED, run(tuning=tmp_path / "run.json"))
    assert results[0].found["lr"] == 1e-2
    assert json.loads((tmp_path / "run.json").read_text())["scores"]["lr=0.03, seed 0"] == {"failed": None}
    with pytest.raises(TrainingFailed, match=r"every trial of \{'lr': \(0.1, 0.2\)\} failed"):
        Fails().train(TUNED.replace(tune={"lr": (0.1, 0.2)}), run())


def test_trials_may_be_shorter_and_have_several_seeds() -> None:
    recipe = TUNED.replace(tune_steps=0.5, tune_seeds=2)
    steps: list[int] = []
    results = ToyTask().train(recipe, run(watch=Watch(step=lambda done, _: steps.append(done))))
    assert len(steps) == recipe.steps(ToyTask(), STEPS) == 6 * STEPS // 2 + STEPS
    assert results[0].found["trials"] == 6
    assert all(map(math.isfinite, results[0].found.values()))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"tune": {"lr": [0.1]}}, r"tune: lr: \[0.1\] must be two values at least"),
        ({"tune": {"lr": [0.1, 0.1]}}, "must be two values at least, each once"),
        ({"tune": {}}, "tune needs hyperparameters and their values"),
        ({"tune_steps": 0.5}, "'tune_steps' has no meaning without tune"),
        ({"tune": {"lr": [0.1, 0.2]}, "search": "uniform", "budgets": [0.5]}, "'tune' cannot be combined with search"),
    ],
)
def test_what_is_wrong_is_named(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SANDWICH.replace(**keys)
