"""Recipes that choose channels: what they train, what they hold out, and that they resume exactly."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import slimlib as slim
from slimlib.core.width import WidthPlan
from slimlib.training.sandwich import EveryWidth
from tasks.points import PointResult
from tasks.training.checkpoint import Checkpoint
from tasks.training.choosing import ORDERS, SEARCHES
from tasks.training.recipe import Recipe
from tasks.training.run import Interrupted, TrainingRun, Watch, derive_seed
from tests.tasks.training.toy import ToyTask

STEPS = 6
EFFORT = {"steps": 4, "evaluations": 6, "population": 3, "batches": 2}


def recipe(**own: Any) -> Recipe:
    given = {"range": (0.25, 1.0), "rule": "sandwich", "samples": 3, "distill": "mse", "calibrate": 2}
    return Recipe("planned", **{**given, "search": "greedy", "budgets": (0.6, 0.3), "effort": EFFORT, **own})


def train(chosen: Recipe, **run: Any) -> list[PointResult]:
    return ToyTask().train(chosen, TrainingRun(STEPS, 0, **run))


CHANGES: dict[str, tuple[Recipe, Recipe]] = {
    "search": (recipe(), recipe(search="uniform")),
    "budgets": (recipe(), recipe(budgets=(0.5, 0.2))),
    "order": (recipe(search="uniform"), recipe(search="uniform", order="l2")),
    "retrain": (recipe(), recipe(retrain="scratch")),
    "retrained": (recipe(retrain="scratch"), recipe(retrain="scratch", retrained=0.5)),
    "effort": (recipe(), recipe(effort={**EFFORT, "batches": 1})),
}


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_changes_the_result(key: str) -> None:
    one, other = CHANGES[key]
    assert train(one) != train(other)


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_keeps_within_its_budgets(search: str) -> None:
    task, results = ToyTask(), train(recipe(search=search))
    full = slim.cost(task.build(), task.example()).macs
    assert [result.point for result in results] == ["budget 0.3", "budget 0.6"]
    assert all(r.macs <= share * full for r, share in zip(results, (0.3, 0.6), strict=True))
    assert all(result.kind == "plan" and result.found["evaluations"] >= 2 for result in results)


ORDERS_HERE = [order for order in ORDERS if order != "batchnorm"]  # a layer of the toy has none


@pytest.mark.parametrize("order", ORDERS_HERE)
def test_a_sorted_network_computes_at_full_width_what_was_trained(order: str) -> None:
    ordinary = ToyTask().train(Recipe("one", kind="individual", budgets=(1.0,)), TrainingRun(STEPS, 0))[0]
    ordered = train(recipe(order=order, search="uniform", budgets=(1.0, 0.5), calibrate=0))[-1]
    assert ordered.metrics["waves"]["error"] == pytest.approx(ordinary.metrics["waves"]["error"], rel=1e-4)


def test_orders_differ_where_channels_are_left_out() -> None:
    errors = {order: train(recipe(order=order, search="uniform"))[0].metrics["noise"]["error"] for order in ORDERS_HERE}
    assert len({errors[order] for order in ("trained", "shuffled", "l2", "consumers")}) >= 3


def test_individual_networks_have_the_channels_of_the_uniform_plans() -> None:
    individual = train(Recipe("one", kind="individual", budgets=(0.6, 0.3)))
    uniform = train(recipe(search="uniform"))
    assert [(r.point, r.channels, r.macs) for r in individual] == [(r.point, r.channels, r.macs) for r in uniform]


def test_budgets_that_one_width_fits_best_share_its_network() -> None:
    individual = train(Recipe("one", kind="individual", budgets=(0.62, 0.6)))
    assert {r.point for r in individual} == {"budget 0.62", "budget 0.6"}
    assert individual[0].metrics == individual[1].metrics


class Listening(ToyTask):
    """Notes which batches are asked for, and whether they are of what was held out."""

    def __init__(self, asked: set[tuple[bool, bool]]) -> None:
        super().__init__()
        self.asked = asked

    def batches(self, steps: range, seed: int, *, augmented: bool = True, **more: Any) -> Any:
        self.asked.add((augmented, self.first > 0))
        return super().batches(steps, seed, augmented=augmented, **more)


@pytest.mark.parametrize("retrain", [None, "further"])
def test_nothing_is_trained_on_what_plans_are_scored_on(retrain: str | None) -> None:
    asked: set[tuple[bool, bool]] = set()
    Listening(asked).train(recipe(retrain=retrain, calibrate_on="augmented"), TrainingRun(STEPS, 0))
    assert (True, True) not in asked, "a training batch came from what was held out"
    assert (False, True) in asked


def kept(folder: Path, **more: Any) -> dict[str, Any]:
    """Where a run and its first network are kept."""

    def alone(_: str) -> AbstractContextManager[None]:
        return nullcontext()

    watch = more.get("watch", Watch())
    first = TrainingRun(
        STEPS,
        0,
        checkpoint=Checkpoint(folder / "first.pt", "first", every=0),
        trained=Checkpoint(folder / "trained.pt", "first"),
        alone=alone,
        watch=watch,
    )
    return {"checkpoint": Checkpoint(folder / "run.pt", "run", every=0), "first": first, **more}


@pytest.mark.parametrize("asked", [3, STEPS + 2, STEPS + 8, 2 * STEPS + 6])
@pytest.mark.parametrize("own", [{}, {"order": "learned", "search": "ranking"}])
def test_resume_equals_uninterrupted(own: dict[str, Any], asked: int, tmp_path: Path) -> None:
    """Stopped in the first training, in the search, and in the second training."""
    chosen, times = recipe(retrain="further", **own), 0

    def stop() -> bool:
        nonlocal times
        times += 1
        return times == asked

    with pytest.raises(Interrupted):
        train(chosen, **kept(tmp_path, watch=Watch(stop=stop)))
    assert train(chosen, **kept(tmp_path)) == train(chosen)


def test_recipes_share_the_first_network_and_the_search(tmp_path: Path) -> None:
    once = train(recipe(), **kept(tmp_path))
    steps: list[int] = []
    again = train(recipe(retrain="scratch"), **kept(tmp_path, watch=Watch(step=lambda done, _: steps.append(done))))
    assert len(steps) == STEPS, "the second alone is trained"
    assert [r.channels for r in again] == [r.channels for r in once]


def test_a_first_network_that_is_trained_anew_is_searched_anew(tmp_path: Path) -> None:
    train(recipe(), **kept(tmp_path))
    (searched,) = tmp_path.glob("trained-*.json")
    searched.write_text(searched.read_text().replace('"weights": "', '"weights": "of another network'))
    (tmp_path / "trained.pt").unlink()
    assert train(recipe(), **kept(tmp_path)) == train(recipe())


def test_plans_are_retrained_as_switches_would_be_by_hand() -> None:
    results = train(recipe(retrain="scratch", distill="none", calibrate=2))
    plans = slim.Switches(*(WidthPlan(r.channels) for r in results if r.channels is not None))
    task = ToyTask()
    torch.manual_seed(derive_seed(0, "weights"))
    net = slim.convert(task.build(), task.example(), widths=plans, divisor=4)
    rule = EveryWidth(plans)
    torch.manual_seed(derive_seed(0, "training"))
    optimizer, scheduler = task.optimizer(net, STEPS)
    for step in range(STEPS):
        x, target = task.drawn(step, derive_seed(0, "data"))
        optimizer.zero_grad()
        rule.backward(net, x, lambda output, target=target: task.loss(output, target))
        optimizer.step()
        scheduler.step()
    slim.calibrate(net, [task.drawn(step, derive_seed(0, "calibration"))[0] for step in range(2)], plans.widths)
    for result, plan in zip(results, plans.widths, strict=True):
        with torch.no_grad(), slim.at_width(net.eval(), plan):
            assert task.evaluate(net)[0] == result.metrics


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"search": None}, "'budgets' have no meaning without search"),
        ({"budgets": None}, "a search needs budgets"),
        ({"search": "gredy"}, "unknown search 'gredy'; did you mean 'greedy'?"),
        ({"order": "l1"}, "unknown order 'l1'"),
        ({"retrained": 0.5}, "'retrained' has no meaning without retrain"),
        ({"effort": {"step": 3}}, "unknown key of effort 'step'; did you mean 'steps'?"),
        ({"effort": {"steps": 0}}, "effort.steps=0 must be at least 1"),
        ({"budgets": [2.0]}, "budget 2.0 is neither a share in (0, 1] nor an amount with a unit"),
        ({"budgets": [0.5, "300 params"]}, "budgets of one search must have one unit"),
        ({"held_out": 1.0}, "held_out=1.0"),
    ],
)
def test_a_wrong_recipe_is_refused(own: dict[str, Any], says: str) -> None:
    given = {"name": "r", **recipe().settings(), **own}
    with pytest.raises(ValueError) as error:
        Recipe.from_mapping(given)
    assert says in str(error.value)


def test_a_task_that_cannot_hold_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ToyTask, "split")
    with pytest.raises(ValueError, match="ToyTask does not say how a part of its training data is held out"):
        train(recipe())
