"""Rules that choose a width for each input are found on held-out data, and what they spend is counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import slimlib as slim
from benchmarks.settings.run import read_settings
from benchmarks.settings.task import make_task
from tasks.points import PointResult
from tasks.sr import routing
from tasks.training import per_input
from tasks.training.checkpoint import Checkpoint
from tasks.training.recipe import Recipe
from tasks.training.run import Interrupted, TrainingRun, Watch
from tests.extent import NIGHTLY, at_night

STEPS = 40 if NIGHTLY else 20
SHORT = ("scale=tiny", f"steps={STEPS}")
SMALL = {
    "classification": ("task.model=resnet8", "task.multiplier=0.5"),
    "sr": ("task.features=8", "task.blocks=1"),
}


@cache
def task_of(name: str, ablation: str) -> tuple[Any, Mapping[str, Recipe]]:
    settings = read_settings([f"task={name}", f"ablation={ablation}", *SHORT, *SMALL[name]])
    return make_task(settings.task, settings.task_settings), {r.name: r for r in settings.recipes}


@cache
def trained(name: str, ablation: str, recipe: str, folder: Path | None = None) -> list[PointResult]:
    task, recipes = task_of(name, ablation)
    kept = None if folder is None else Checkpoint(folder / "trained.pt", "supernet")
    return task.train(recipes[recipe], TrainingRun(STEPS, seed=0, trained=kept))


@pytest.fixture(scope="module", autouse=True)
def briefly() -> Iterator[None]:
    """How often a pass is timed, and how many batches a search looks at, decides nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(per_input, "ROUNDS", 1)
        patch.setattr(routing, "ROUNDS", 1)
        patch.setattr(per_input, "SEARCHED_ON", 2)
        yield


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the network is kept that the recipes share."""
    return tmp_path_factory.mktemp("trained")


def of(name: str, shared: Path) -> dict[str, PointResult]:
    return {result.point: result for result in trained("classification", "dynamic", name, shared)}


def full(shared: Path) -> float:
    return of("uniform width", shared)["1"].macs


RULES = ("two widths, by chance", "cascade by largest probability", at_night("cascade by margin"), "gate (DS-Net)")


@pytest.mark.parametrize("name", RULES)
def test_each_rule_spends_about_what_it_may(name: str, shared: Path) -> None:
    found = of(name, shared)
    for point, result in found.items():
        most = float(point.removeprefix("cost ")) * full(shared)
        assert result.kind == "per-input" and result.macs <= 1.25 * most, (
            "costs are of other inputs than those fitted on"
        )
        assert sum(result.shares.values()) == pytest.approx(1.0)
        assert set(result.at_batch) == {"1", "8", "64"} and result.milliseconds == result.at_batch["1"]
    assert found


def test_uniform_widths_stand_beside_them(shared: Path) -> None:
    found = of("uniform width", shared)
    assert {"0.25", "0.5", "0.75", "1"} < set(found)
    assert found["cost 0.6"].macs <= 0.6 * found["1"].macs
    assert all(result.at_batch for result in found.values())


@pytest.mark.nightly
def test_searched_plans_stand_beside_them(shared: Path) -> None:
    """One plan for all inputs costs what it is counted at, and is no width."""
    found = of("searched plan", shared)
    assert list(found) == ["cost 0.4", "cost 0.6", "cost 0.8"]
    for point, result in found.items():
        assert result.macs <= float(point.removeprefix("cost ")) * full(shared)
        assert result.shares == {"plan": 1.0} and result.at_batch


def test_the_oracle_is_at_least_as_good_as_any_width(shared: Path) -> None:
    (oracle,) = of("oracle", shared).values()
    widths = [r for r in of("uniform width", shared).values() if r.kind == "width"]
    assert oracle.metrics["held-out"]["top1_error"] <= min(r.metrics["held-out"]["top1_error"] for r in widths)
    assert oracle.macs <= full(shared)


def test_what_runs_before_the_gate_can_keep_its_channels() -> None:
    """The widest of the gate's plans is then the full width, as trained; the channels before it are no one's choice."""
    task, recipes = task_of("classification", "dynamic")
    recipe = recipes["gate (DS-Net), full stem"]
    dense = recipe.build(task)
    before = task.gate_before(dense)
    stem = dense.features[: int(before.removeprefix("features."))]
    channels = {name: weight.shape for name, weight in stem.named_parameters()}
    net = recipe.convert(dense, task)
    slim.calibrate(net, [task.example().repeat(2, 1, 1, 1)], widths=[0.25])
    narrow = slim.extract(net.eval(), 0.25).features
    assert {name: weight.shape for name, weight in narrow[: len(stem)].named_parameters()} == channels
    assert narrow[len(stem)].body[0].weight.shape[0] < net.features[len(stem)].body[0].weight.shape[0]
    widest = slim.gated_plans(net, before, [0.25, 1.0])[-1]
    assert slim.cost(net, task.example(), width=widest) == slim.cost(net, task.example(), width=1.0)


@pytest.mark.nightly
@pytest.mark.parametrize("after", [20, 43])  # steps of the network's training, then of the gate's
def test_a_gate_that_was_interrupted_ends_like_one_that_was_not(after: int, tmp_path: Path, shared: Path) -> None:
    task, recipes = task_of("classification", "dynamic")
    recipe, expected = recipes["gate (DS-Net)"], of("gate (DS-Net)", shared)
    count = 0

    def stop() -> bool:
        nonlocal count
        count += 1
        return count == after

    checkpoint = Checkpoint(tmp_path / "gate.pt", "gate", every=0.0)
    with pytest.raises(Interrupted):
        task.train(recipe, TrainingRun(STEPS, seed=0, checkpoint=checkpoint, watch=Watch(stop=stop)))
    results = task.train(recipe, TrainingRun(STEPS, seed=0, checkpoint=checkpoint))
    for result in results:
        assert (result.macs, result.shares, result.metrics) == (
            expected[result.point].macs,
            expected[result.point].shares,
            expected[result.point].metrics,
        )


def test_patches_are_routed_within_their_cost(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sr")
    others = ("patches, by chance", "patches, by difficulty", "patches, by an oracle")
    names = ("uniform width", *(others if NIGHTLY else others[1:2]))
    found = {name: {r.point: r for r in trained("sr", "routing", name, folder)} for name in names}
    whole = found["uniform width"]["1"]
    for name in names[1:]:
        assert [*found[name]] == ["cost 0.4", "cost 0.6", "cost 0.8"]
        for point, result in found[name].items():
            assert result.macs <= 1.3 * float(point.removeprefix("cost ")) * whole.macs
            assert sum(result.shares.values()) == pytest.approx(1.0)
    for point in ("cost 0.4", "cost 0.6", "cost 0.8") if NIGHTLY else ():
        chance, table, oracle = (found[name][point].metrics["photos"]["psnr"] for name in names[1:])
        assert oracle >= table - 0.02 and oracle >= chance - 0.02


@pytest.mark.parametrize(
    ("name", "ablation", "recipe"),
    [
        at_night("classification", "dynamic", "cascade by largest probability"),
        ("sr", "routing", "patches, by difficulty"),
    ],
)
def test_the_shown_network_draws_inputs_by_width(name: str, ablation: str, recipe: str, tmp_path: Path) -> None:
    task, recipes = task_of(name, ablation)
    kept: list[Any] = []
    watch = Watch(trained=lambda _, net: kept.append(net))
    task.train(recipes[recipe], TrainingRun(5, seed=0, watch=watch))
    task.keep(kept[0], recipes[recipe], tmp_path / "net")
    shown = task.show(recipes[recipe], tmp_path / "net")
    assert shown is not None and len(shown.figure.axes) >= 1
    assert list(recipes)[-1] == recipe, "the last one is shown"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"per_input": "guess"}, "guess.*gate"),
        ({"per_input": "margin"}, "per_input: margin needs mean costs"),
        ({"costs": [0.5]}, "'costs' has no meaning without per_input"),
        ({"stem": "full"}, "'stem' has no meaning without per_input"),
        ({"per_input": "margin", "costs": [1.5]}, r"must be shares in \(0, 1\]"),
    ],
)
def test_recipes_that_contradict_themselves(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Recipe.from_mapping({"name": "r", "range": [0.25, 1.0], "rule": "sandwich"} | change)


def test_recipes_share_the_network_alone_with_those_that_hold_out_the_same() -> None:
    plain = Recipe.from_mapping({"name": "r", "range": [0.25, 1.0], "rule": "sandwich"})
    rules = [plain.replace(per_input=kind, costs=(0.5,)) for kind in ("margin", "gate")]
    assert rules[0].training() == rules[1].training() != plain.training()
    assert slim.WidthRange(0.25, 1.0) == rules[0].widths()
