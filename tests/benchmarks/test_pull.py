"""Gradients of data and students, taken apart over a training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import slimlib as slim
from benchmarks.pull.__main__ import main, taught
from benchmarks.pull.measuring import Pull, Pulled, measure, pull
from benchmarks.pull.policies import measure_policy
from benchmarks.pull.writing import written
from benchmarks.running.command import DONE, WRONG_SETTINGS
from benchmarks.running.jobs import plan
from benchmarks.settings.run import read_settings
from benchmarks.settings.task import make_task
from slimlib.core.setting import in_use
from tasks.rl.settings import RlSettings
from tasks.rl.task import ReinforcementLearning
from tasks.rl.training import train_policies
from tasks.task import Metric, SupervisedTask
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun, Watch, derive_seed
from tasks.training.supervised import Loop, start, train_network
from tests.tasks.detection.conftest import SMALL

WORDS = ["task=classification", "ablation=distillation", "steps=4", "task.model=resnet8", "task.multiplier=0.5"]


def loop_of(recipe: str) -> Loop:
    settings = read_settings([*WORDS, f'only=["{recipe}"]'])
    task = make_task(settings.task, settings.task_settings)
    assert isinstance(task, SupervisedTask)
    return Loop(task, settings.recipes[0], TrainingRun(settings.steps, 0))


def test_the_places_are_those_of_the_network_built_for_the_narrowest_width() -> None:
    loop = loop_of("soft cross-entropy")
    training = start(loop, None)
    assert training.rule is not None
    places = list(in_use(training.net, training.rule.widths.smallest).items())
    narrow = loop.task.build(training.rule.widths.smallest)
    assert [int(place.sum()) for _, place in places] == [parameter.numel() for parameter in narrow.parameters()]


def test_data_and_students_are_the_gradients_of_their_losses_alone() -> None:
    loop = loop_of("soft cross-entropy")
    training = start(loop, None)
    net, rule = training.net, training.rule
    assert rule is not None
    found = pull(loop, training, 0)
    images, labels = next(loop.task.batches(range(1), derive_seed(0, "data")))
    net.train()
    places = in_use(net, rule.widths.smallest).items()

    def gradient() -> torch.Tensor:
        flat = torch.cat([p.grad[at] if p.grad is not None else torch.zeros_like(p)[at] for p, at in places])
        net.zero_grad(set_to_none=True)
        return flat.double()

    largest, *others = rule.draw()
    with slim.at_width(net, largest):
        output = net(images)
        loop.task.loss(output, labels).backward()
    data = gradient()
    for width in others:
        with slim.at_width(net, width):
            slim.soft_cross_entropy(net(images), output.detach()).backward()
    students = gradient()
    assert found.data == pytest.approx(float(data.norm()), rel=1e-4)
    assert found.students == pytest.approx(float(students.norm()), rel=1e-4)
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(data, students, 0)), abs=1e-4)


def test_measuring_changes_nothing_of_the_training() -> None:
    plain, measured = loop_of("ensemble bootstrapping"), loop_of("ensemble bootstrapping")
    training = start(plain, None)
    train_network(plain, training)
    watched = start(measured, None)
    for step in range(4):
        pull(measured, watched, step)
    train_network(measured, watched)
    for name, value in training.net.state_dict().items():
        assert torch.equal(value, watched.net.state_dict()[name]), name


def test_students_at_half_the_weight_pull_half_as_hard() -> None:
    whole, tenth = (
        pull(loop := loop_of(recipe), start(loop, None), 0)
        for recipe in ("soft cross-entropy", "soft cross-entropy, weight 0.1")
    )
    assert tenth.data == pytest.approx(whole.data, rel=1e-5)
    assert tenth.students == pytest.approx(0.1 * whole.students, rel=1e-3)


def test_recipes_without_students_are_left_out() -> None:
    settings = read_settings([*WORDS])
    names = [job.recipe.name for job in plan(settings) if taught(job)]
    assert "soft cross-entropy" in names and not {"individual", "none"} & set(names)


def test_the_command_measures_each_recipe_once(tmp_path: Path) -> None:
    words = [*WORDS, f"results={tmp_path}", 'only=["individual","soft cross-entropy","soft cross-entropy, balanced"]']
    assert main(words) == DONE
    folder = tmp_path / "classification" / "pull" / "tiny"
    table = pd.read_csv(folder / "table.csv")
    assert set(table.recipe) == {"soft cross-entropy", "soft cross-entropy, balanced"}
    assert sorted(set(table.step)) == [0, 1, 2, 3]
    assert "times as hard as the data" in (folder / "table.md").read_text()
    assert (folder / "figure.png").stat().st_size > 10_000
    first = {path: path.stat().st_mtime_ns for path in (folder / "recipes").iterdir()}
    assert main(words) == DONE
    assert first == {path: path.stat().st_mtime_ns for path in (folder / "recipes").iterdir()}


def test_without_students_there_is_no_angle_which_is_kept_and_shown_for_each_seed() -> None:
    """As of a range that grows, whose first steps train the largest width alone."""
    alone = Pull(step=0, data=1.0, students=0.0, cosine=math.nan, agreement_of_data=1, agreement_of_students=math.nan)
    grown = Pull(step=9, data=1.0, students=2.0, cosine=0.5, agreement_of_data=1, agreement_of_students=0.25)
    pulls = [alone, alone, grown, grown]
    measured = [Pulled(recipe="growing", seed=seed, pulls=pulls, scores={"1": 9.0}) for seed in (0, 1)]
    found = [Pulled.model_validate_json(one.model_dump_json()) for one in measured]
    assert [math.isnan(one.cosine) for one in found[0].pulls] == [True, True, False, False]
    table = written(found, Metric("psnr", "dB", "higher"), "Trained.")["table.md"]
    row = "0 | 0 | 2 | 0.50 | 1.00 | 0.25 | 9.00 |"
    assert str(table).splitlines()[-2:] == [f"| growing, seed {seed} | {row}" for seed in (0, 1)]


def test_students_of_a_detector_are_taken_apart_too() -> None:
    """Its outputs hold modules and whole numbers beside tensors that learn."""
    pytest.importorskip("pycocotools")
    settings = read_settings(["task=detection", "ablation=distillation", 'only=[heads,"heads, balanced"]', "steps=2"])
    task = make_task("detection", {**settings.task_settings, **SMALL})
    assert isinstance(task, SupervisedTask)
    loop = Loop(task, settings.recipes[0], TrainingRun(2, 0))
    training = start(loop, None)
    whole = pull(loop, training, 0)
    training.rule = settings.recipes[1].make_rule(0)
    balanced = pull(loop, training, 0)
    assert balanced.data == pytest.approx(whole.data, rel=1e-4)
    assert 3 * balanced.students == pytest.approx(whole.students, rel=1e-3)


def test_scores_are_those_of_the_trained_network() -> None:
    loop = loop_of("soft cross-entropy")
    assert isinstance(loop.task, SupervisedTask)
    found = measure(loop.task, loop.recipe, loop.run)
    assert isinstance(found, Pulled) and set(found.scores) == {"0.25", "0.5", "0.75", "1"}
    assert all(0 <= score <= 100 for score in found.scores.values())


POLICY = ["task=rl", "ablation=stability", "data=identity", "steps=400", "task.curve_points=0", "task.episodes=2"]


def policy_of(recipe: str) -> tuple[RlSettings, Recipe, TrainingRun]:
    settings = read_settings([*POLICY, f'only=["{recipe}"]'])
    task = make_task(settings.task, settings.task_settings)
    assert isinstance(task, ReinforcementLearning)
    return task.settings, settings.recipes[0], TrainingRun(settings.steps, 0)


@pytest.mark.parametrize("recipe", ["certainty, a tenth", "later start"])
def test_measuring_changes_nothing_of_a_policy(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[str, torch.Tensor]] = []

    def keep(_: object, model: Any) -> None:
        kept.append({name: value.clone() for name, value in model.policy.state_dict().items()})

    settings, chosen, run = policy_of(recipe)
    run = replace(run, watch=Watch(trained=keep))
    train_policies(settings, chosen, run)
    found = measure_policy(settings, chosen, run)
    assert all(torch.equal(value, kept[1][name]) for name, value in kept[0].items())
    assert found.pulls and all(0 < one.agreement_of_data <= 1 for one in found.pulls if one.agreement_of_data)
    if recipe == "later start":
        assert {one.students for one in found.pulls if one.step < 120} == {0}


def test_narrow_policies_at_a_tenth_of_the_weight_pull_a_tenth_as_hard() -> None:
    tenth, hundredth = (
        measure_policy(*policy_of(recipe)).pulls[0] for recipe in ("certainty, a tenth", "certainty, a hundredth")
    )
    assert tenth.students == pytest.approx(10 * hundredth.students, rel=0.1)
    assert tenth.data == pytest.approx(hundredth.data, rel=0.05)


def test_steps_agree_as_far_as_their_gradients_do(tmp_path: Path) -> None:
    words = [*POLICY, f"results={tmp_path}", 'only=["each width clipped",published,"own loss"]']
    assert main(words) == DONE
    (table,) = tmp_path.rglob("table.csv")
    measured = pd.read_csv(table)
    assert set(measured.recipe) == {"published"}  # the others have no students, or no sum of gradients
    assert measured.agreement_of_students.between(1 / 16, 1).all()
    assert "agreement of students" in table.with_suffix(".md").read_text()


def test_a_training_without_updates_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["task=rl", "task.algorithm=dqn", "steps=40", "only=[outputs]", "task.curve_points=0", "task.episodes=1"]
    assert main([*words, f"results={tmp_path}"]) != DONE
    assert "'outputs' has fewer than 16 updates in 40 environment steps" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["task=rl", "data=pendulum", "task.algorithm=sac"],
            "critics and actor apart; choose from ppo, a2c, dqn",
        ),
        (["task=classification", 'only=["none"]'], "has students; use ablation=distillation"),
        (["task=classification", "stepz=3"], "steps"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == WRONG_SETTINGS
    assert message in capsys.readouterr().err
