"""A width for each state of a policy: rules are found on states of their own, and spend what they may."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import slimlib as slim
from benchmarks.settings.run import read_settings
from benchmarks.settings.task import make_task
from slimlib.rl import SlimDQN, SlimPPO, SlimSAC
from tasks.points import OperatingPoint
from tasks.rl.deciding import States
from tasks.rl.models import Scores
from tasks.training import per_input
from tasks.training.checkpoint import Checkpoint
from tasks.training.run import TrainingRun, Watch
from tasks.training.width_rules import Constant
from tests.extent import one_by_day

WIDTHS = slim.WidthRange(0.25, 1.0)


@pytest.fixture(scope="module", autouse=True)
def briefly() -> Iterator[None]:
    """How often a pass is timed decides nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(per_input, "ROUNDS", 1)
        yield


@pytest.mark.parametrize("kind", [SlimPPO, SlimDQN])
def test_the_likeliest_score_is_the_action_of_the_policy(kind: type) -> None:
    model = kind("MlpPolicy", "CartPole-v1", widths=WIDTHS, seed=0, device="cpu")
    seen = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    scores = Scores(model)
    frozen = slim.freeze(model.policy, [0.25, 1.0])
    for width in (0.25, 1.0):
        slim.set_width(model.policy, width)
        slim.set_width(frozen, width)
        with torch.no_grad():
            found = scores(torch.from_numpy(seen))
        assert (found.argmax(1).numpy() == model.policy.predict(seen, deterministic=True)[0]).all()
        assert (found.argmax(1).numpy() == frozen.predict(seen, deterministic=True)[0]).all()


def test_each_state_has_a_width_of_its_own() -> None:
    scores = Scores(SlimPPO("MlpPolicy", "CartPole-v1", widths=WIDTHS, seed=0, device="cpu"))
    seen = torch.randn(8, 4)
    with torch.no_grad():
        routed = slim.route(scores, seen, [0.25, 1.0] * 4)
        for i, width in enumerate([0.25, 1.0] * 4):
            with slim.at_width(scores, width):
                torch.testing.assert_close(routed[i : i + 1], scores(seen[i : i + 1]))


def test_actions_without_numbers_are_refused() -> None:
    model = SlimSAC("MlpPolicy", "Pendulum-v1", widths=WIDTHS, seed=0, device="cpu", buffer_size=10)
    with pytest.raises(ValueError, match="a width for each state needs numbered actions"):
        Scores(model)


def test_states_are_labelled_by_the_full_width() -> None:
    scores = Scores(SlimPPO("MlpPolicy", "CartPole-v1", widths=WIDTHS, seed=0, device="cpu"))
    slim.set_width(scores, 0.25)
    states = States(scores, torch.randn(50, 4))
    with torch.no_grad(), slim.at_width(scores, 1.0):
        assert torch.equal(states.actions, scores(states.seen).argmax(1))
    (first, _), (again, _) = next(states.batches(range(3, 4), 0)), next(states.batches(range(3, 9), 0))
    assert torch.equal(first, again)


def test_recipes_share_a_policy_and_are_scored(tmp_path: Path) -> None:
    settings = read_settings(["task=rl", "ablation=dynamic", "scale=tiny", "steps=512", "task.episodes=2"])
    task, recipes = make_task(settings.task, settings.task_settings), {r.name: r for r in settings.recipes}
    trained = Checkpoint(tmp_path / "trained.pt", "policy")
    found = {
        name: {r.point: r for r in task.train(recipes[name], TrainingRun(512, seed=0, trained=trained))}
        for name in ("uniform width", "searched plan", "cascade by margin", "gate (DS-Net)")
    }
    full = found["uniform width"]["1"]
    plans = found["searched plan"]
    assert plans and all(r.macs <= float(n.removeprefix("cost ")) * full.macs for n, r in plans.items())
    for name in ("cascade by margin", "gate (DS-Net)"):
        # What is spent is of the states that the rule itself comes to, not of those that it was found on.
        assert all(0 < result.macs < 1.6 * full.macs for result in found[name].values())
        for result in found[name].values():
            assert result.kind == "per-input" and sum(result.shares.values()) == pytest.approx(1.0)
            assert len(result.samples["CartPole-v1"]["return"]) == 2 and set(result.at_batch) == {"1", "8", "64"}
    assert OperatingPoint("constant", Constant([1.0])).kind == "per-input"


@pytest.mark.parametrize("name", one_by_day(["cascade by largest probability", "gate (DS-Net)"]))
def test_pictures_of_an_episode_stand_by_width(name: str, tmp_path: Path) -> None:
    words = ["task=rl", "ablation=dynamic", "scale=tiny", "steps=512", "task.episodes=2", "task.video=true"]
    settings = read_settings([*words, "task.normalize=true"])
    task, recipe = make_task(settings.task, settings.task_settings), {r.name: r for r in settings.recipes}[name]
    task.train(recipe, TrainingRun(512, seed=0, watch=Watch(trained=lambda _, m: task.keep(m, recipe, tmp_path / "x"))))
    shown = task.show(recipe, tmp_path / "x")
    assert shown is not None and shown.figure is not None and not shown.files
    labels = [axes.get_ylabel().split("\n") for axes in shown.figure.axes[::10]]
    assert [width for width, _ in labels] == sorted((width for width, _ in labels), key=float)
    assert {float(width) for width, _ in labels} <= set(recipe.evaluated(task))
    assert all(row.images for row in shown.figure.axes[::10]), "each width that is shown has a picture"
