"""The training loop: what it trains, and that it goes on where it was stopped."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import slimlib as slim
from slimlib.core.setting import in_use
from slimlib.training.distillation import TEACHERS
from slimlib.training.named import parameters_of
from slimlib.training.rules import RULES, rule_parameters
from tasks.points import PointResult
from tasks.training.checkpoint import Checkpoint, HostileCheckpointError
from tasks.training.choosing import Choosing
from tasks.training.recipe import DISTILLED, LESSON, MEASURED, Recipe, evenly_spaced
from tasks.training.run import Interrupted, TrainingFailed, TrainingRun, Watch, derive_seed
from tasks.training.scoring import score
from tasks.training.supervised import Loop, start, train_network, train_recipe
from tasks.training.tuning import Tuning
from tests.tasks.training.toy import ToyTask

STEPS = 6
INDIVIDUAL = Recipe("individual", kind="individual")
SANDWICH = Recipe("sandwich", range=(0.5, 1.0), rule="sandwich", samples=3, distill="mse", calibrate=2)
SWITCHES = Recipe("switches", switches=(0.5, 1.0), rule="every", norm="switchable")
INCREMENTAL = Recipe("incremental", switches=(0.5, 0.75, 1.0), rule="incremental", norm="switchable")
EQUAL = INCREMENTAL.replace(name="equal", share="equal", norm="universal", calibrate=2)

HEADS = SANDWICH.replace(name="heads", heads=3)


def train(recipe: Recipe, *, seed: int = 0, **given: object) -> list[PointResult]:
    return train_recipe(ToyTask(), recipe, TrainingRun(STEPS, seed, **given))  # type: ignore[arg-type]


class Killed(Exception):
    pass


def kill_at(step: int) -> Watch:
    def count(done: int, _loss: float) -> None:
        if done == step:
            raise Killed

    return Watch(step=count)


@pytest.mark.parametrize("recipe", [INDIVIDUAL, SANDWICH, SWITCHES, INCREMENTAL, EQUAL, HEADS], ids=lambda r: r.name)
@pytest.mark.parametrize("step", [1, 4, STEPS])
def test_resume_equals_uninterrupted(recipe: Recipe, step: int, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.pt", "run", every=0.0)
    with pytest.raises(Killed):
        train(recipe, checkpoint=checkpoint, watch=kill_at(step))
    torch.manual_seed(99)  # another process has other random states
    assert train(recipe, checkpoint=checkpoint) == train(recipe)


def test_resume_in_a_later_individual_network_equals_uninterrupted(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.pt", "run", every=0.0)
    for step in (STEPS + 2, 2 * STEPS, 2 * STEPS + 1):
        with pytest.raises(Killed):
            train(INDIVIDUAL, checkpoint=checkpoint, watch=kill_at(step))
    steps: list[int] = []
    resumed = train(INDIVIDUAL, checkpoint=checkpoint, watch=Watch(step=lambda done, _: steps.append(done)))
    assert resumed == train(INDIVIDUAL)
    assert steps[0] > 2 * STEPS - 1, "finished networks are not trained again"


@pytest.mark.parametrize("step", [STEPS + 1, 2 * STEPS, 2 * STEPS + 1, 3 * STEPS])
def test_resume_in_a_later_stage_equals_uninterrupted(step: int, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.pt", "run", every=0.0)
    with pytest.raises(Killed):
        train(INCREMENTAL, checkpoint=checkpoint, watch=kill_at(step))
    assert train(INCREMENTAL, checkpoint=checkpoint) == train(INCREMENTAL)


@pytest.mark.parametrize("recipe", [INCREMENTAL, EQUAL, EQUAL.replace(norm="group")], ids=["whole", "equal", "group"])
def test_a_narrow_switch_stays_what_it_was_after_its_stage(recipe: Recipe) -> None:
    """Its outputs in training, bit for bit: Adam has moments that go on moving what gets no gradient any more."""
    x, outputs = torch.randn(4, 2, 8, 8), {}
    loop = Loop(ToyTask(), recipe, TrainingRun(STEPS, 0))
    training = start(loop, None)

    def out(width: float) -> torch.Tensor:
        with torch.no_grad(), slim.at_width(training.net, width), torch.random.fork_rng():
            torch.manual_seed(0)
            return training.net(x)

    def look(step: int, _: float) -> None:
        if step in training.ends:
            outputs[step] = [out(width) for width in recipe.switches or ()]

    train_network(replace(loop, run=replace(loop.run, watch=Watch(step=look))), training)
    for stage, end in enumerate(training.ends):
        for later in training.ends[stage + 1 :]:
            assert torch.equal(outputs[later][stage], outputs[end][stage])
            assert not torch.equal(outputs[later][-1], outputs[end][-1])


def test_each_stage_is_an_ordinary_training_of_what_its_switch_adds() -> None:
    """By hand: a fresh optimizer and schedule for each stage, and no gradient for what narrower switches use."""
    task, switches = ToyTask(), slim.Switches(*INCREMENTAL.switches or ())
    torch.manual_seed(derive_seed(0, "weights"))
    net = slim.convert(task.build(), task.example(), widths=switches, norm="switchable", divisor=4)
    torch.manual_seed(derive_seed(0, "training"))
    for stage, width in enumerate(switches.widths):
        slim.set_width(net, width)
        fixed = [(p, mask) for narrower in switches.widths[:stage] for p, mask in in_use(net, narrower).items()]
        optimizer, scheduler = task.optimizer(net, STEPS)
        for step in range(stage * STEPS, (stage + 1) * STEPS):
            x, target = task.drawn(step, derive_seed(0, "data"))
            optimizer.zero_grad()
            task.loss(net(x), target).backward()
            for parameter, mask in fixed:
                if parameter.grad is not None:
                    parameter.grad[mask] = 0  # without weight decay nothing else moves it
            optimizer.step()
            scheduler.step()
    with torch.no_grad(), slim.at_width(net.eval(), 0.75):
        by_hand = task.evaluate(net)[0]
    assert train(INCREMENTAL)[1].metrics == by_hand


def test_a_stop_writes_a_checkpoint_and_the_run_goes_on_there(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.pt", "run", every=1e9)
    seen: list[int] = []
    with pytest.raises(Interrupted):
        train(
            SANDWICH,
            checkpoint=checkpoint,
            watch=Watch(step=lambda done, _: seen.append(done), stop=lambda: len(seen) == 3),
        )
    assert train(SANDWICH, checkpoint=checkpoint, watch=Watch(step=lambda done, _: seen.append(done))) == train(
        SANDWICH
    )
    assert seen == [1, 2, 3, 4, 5, 6]


def test_an_individual_network_is_trained_the_ordinary_way() -> None:
    task = ToyTask()
    torch.manual_seed(derive_seed(0, "weights"))
    net = task.build(0.5)
    torch.manual_seed(derive_seed(0, "training"))
    optimizer, scheduler = task.optimizer(net, STEPS)
    for step in range(STEPS):
        x, target = task.drawn(step, derive_seed(0, "data"))
        optimizer.zero_grad()
        task.loss(net(x), target).backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        by_hand = task.evaluate(net.eval())[0]
    assert train(INDIVIDUAL)[0].metrics == by_hand


def test_a_slimmable_network_is_trained_by_its_rule() -> None:
    task = ToyTask()
    torch.manual_seed(derive_seed(0, "weights"))
    widths = slim.WidthRange(0.5, 1.0)
    net = slim.convert(task.build(), task.example(), widths=widths, divisor=4)
    rule = slim.Sandwich(widths, samples=3, distill=slim.mse, seed=derive_seed(0, "widths"))
    torch.manual_seed(derive_seed(0, "training"))
    optimizer, scheduler = task.optimizer(net, STEPS)
    for step in range(STEPS):
        x, target = task.drawn(step, derive_seed(0, "data"))
        optimizer.zero_grad()
        rule.backward(net, x, lambda output, target=target: task.loss(output, target))
        optimizer.step()
        scheduler.step()
    slim.calibrate(net, [task.drawn(step, derive_seed(0, "calibration"))[0] for step in range(2)], [0.5, 0.75, 1.0])
    with torch.no_grad(), slim.at_width(net.eval(), 0.75):
        by_hand = task.evaluate(net)[0]
    assert train(SANDWICH)[1].metrics == by_hand


@pytest.mark.parametrize("recipe", [INDIVIDUAL, SANDWICH, SWITCHES], ids=lambda r: r.name)
def test_every_network_takes_the_same_number_of_steps(recipe: Recipe) -> None:
    seen: list[int] = []
    networks: list[float | None] = []
    train(recipe, watch=Watch(step=lambda done, _: seen.append(done), trained=lambda width, _: networks.append(width)))
    assert networks == ([0.5, 0.75, 1.0] if recipe is INDIVIDUAL else [None])
    assert seen == list(range(1, STEPS * len(networks) + 1))


BASE = Recipe("base", range=(0.5, 1.0), rule="sandwich", samples=3, calibrate=2)
SWITCHABLE = Recipe("base", switches=(0.5, 0.75, 1.0), rule="sandwich", samples=3, calibrate=2)
KL = BASE.replace(distill="kl_divergence", temperature=4.0)
L1 = BASE.replace(distill="l1")
ENSEMBLE = L1.replace(teacher="ensemble")
AVERAGED = L1.replace(teacher={"averaged": {"decay": 0.9}})
ALPHA = BASE.replace(distill="alpha_divergence")
BEST = BASE.replace(rule="nonuniform", samples=3, candidates=3)
GROWING = BASE.replace(rule="growing", samples=3, alone=1, growth=2)
CHANGES = {
    "kind": (BASE, Recipe("base", kind="individual")),
    "range": (BASE, BASE.replace(range=(0.25, 1.0))),
    "switches": (SWITCHABLE, SWITCHABLE.replace(switches=(0.25, 0.5, 0.75, 1.0))),
    "rule": (BASE, BASE.replace(rule="random")),
    "samples": (BASE, BASE.replace(samples=4)),
    "distill": (BASE, BASE.replace(distill="l1")),
    "temperature": (KL, KL.replace(temperature=1.0)),
    "data": (L1, L1.replace(data=0.5)),
    "weight": (L1, L1.replace(weight="balanced")),
    "teacher": (L1, AVERAGED),
    "smallest": (L1, L1.replace(smallest={"weight": 0.5})),
    "largest": (L1, L1.replace(largest={"data": 0.5})),
    "teacher.averaged.decay": (AVERAGED, L1.replace(teacher={"averaged": {"decay": 0.5}})),
    "teacher.averaged.start": (AVERAGED, L1.replace(teacher={"averaged": {"decay": 0.9, "start": 2}})),
    "teacher.ensemble.widths": (ENSEMBLE, L1.replace(teacher={"ensemble": {"widths": [0.75, 1.0]}})),
    "teacher.ensemble.of": (ENSEMBLE, L1.replace(teacher={"ensemble": {"of": "averaged"}})),
    "teacher.ensemble.mean": (ENSEMBLE, L1.replace(teacher={"ensemble": {"mean": "probabilities"}})),
    "norm": (SWITCHABLE, SWITCHABLE.replace(norm="switchable")),
    "calibrate": (BASE, BASE.replace(calibrate=3)),
    "average": (BASE, BASE.replace(average="moving")),
    "calibrate_on": (BASE, BASE.replace(calibrate_on="plain")),
    "tested": (BASE, BASE.replace(tested="nonuniform")),
    "low": (ALPHA, ALPHA.replace(low=-2.0)),
    "high": (ALPHA, ALPHA.replace(high=2.0)),
    "clip": (ALPHA, ALPHA.replace(clip=0.5)),
    "candidates": (BASE.replace(rule="nonuniform", samples=3), BEST),
    "choose": (BEST, BEST.replace(choose="worst")),
    "alone": (GROWING, GROWING.replace(alone=2)),
    "growth": (GROWING, GROWING.replace(growth=4)),
    "heads": (BASE, BASE.replace(heads=2)),
    "share": (INCREMENTAL, INCREMENTAL.replace(share="equal")),
}
BY_OTHER_TESTS = {"name", "spectrum", "behaviour", "distill_values"}  # the last two: tests/tasks/rl/test_training.py
BY_OTHER_TESTS |= {"zero_scale", "stability"}  # tests/tasks/training/test_recipe.py, tests/slimlib/rl
BY_OTHER_TESTS |= {"sizes", "per_input", "costs", "stem"}  # tests/slimlib/training/test_variants.py, test_per_input.py
BY_OTHER_TESTS |= {*Choosing.model_fields, *Tuning.model_fields}  # test_planned.py, test_tuning.py


def test_there_is_a_test_for_every_key_of_a_recipe() -> None:
    keys = set(Recipe.model_fields) | set(LESSON)
    keys |= {key for rule in RULES for key in rule_parameters(rule)}
    keys |= {key for made_by in DISTILLED.values() for key in parameters_of(made_by)}
    keys |= {f"teacher.{name}.{key}" for name, teacher in TEACHERS.items() for key in parameters_of(teacher)}
    assert set(CHANGES) == keys - BY_OTHER_TESTS


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_of_a_recipe_changes_the_result(key: str) -> None:
    one, other = CHANGES[key]
    before, after = train(one), train(other)
    unmoved = {0.5, 1.0} if key == "tested" else {1.0} if key in MEASURED else set()
    common = {r.width for r in before} & {r.width for r in after} - unmoved
    assert common
    assert [r.metrics for r in before if r.width in common] != [r.metrics for r in after if r.width in common]


def test_a_spectrum_is_scored_at_evenly_spaced_widths() -> None:
    results = train(BASE.replace(spectrum=5))
    assert [r.width for r in results] == [0.5, 0.625, 0.75, 0.875, 1.0]
    assert {r.width: r for r in train(BASE)}[0.75] == results[2]


def test_evenly_spaced_widths_hold_both_ends() -> None:
    assert evenly_spaced(0.25, 1.0, 2) == [0.25, 1.0]
    for count in (1, 0, -3):
        with pytest.raises(ValueError, match=f"count={count} must be at least 2"):
            evenly_spaced(0.25, 1.0, count)


def test_a_non_uniform_test_is_the_mean_over_plans_around_the_width() -> None:
    results = {r.width: r for r in train(BASE.replace(tested="nonuniform"))}
    uniform = {r.width: r for r in train(BASE)}
    assert (results[0.5], results[1.0]) == (uniform[0.5], uniform[1.0]), "at the ends there is nothing to vary"
    assert results[0.75].macs != uniform[0.75].macs


def test_without_calibration_every_width_has_the_statistics_of_the_full_one() -> None:
    task = ToyTask()
    net = slim.convert(task.build(), task.example(), widths=slim.WidthRange(0.5, 1.0), divisor=4)
    net(torch.randn(4, 2, 8, 8))
    score(task, BASE.replace(calibrate=0), net, None, seed=0, device=torch.device("cpu"))
    norm = net[1]
    with slim.at_width(net, 0.5):
        assert torch.equal(norm.running_mean, norm._buffers["running_mean"][:8])
        assert torch.equal(norm.running_var, norm._buffers["running_var"][:8])


@pytest.mark.parametrize("measured", ["calibrate", "average", "calibrate_on", "tested", "spectrum"])
def test_a_network_trained_for_another_score_equals_one_trained_for_this(measured: str, tmp_path: Path) -> None:
    values = {"average": "moving", "calibrate_on": "plain", "tested": "nonuniform"}
    other = BASE.replace(**{measured: values.get(measured, 3)})
    kept = Checkpoint(tmp_path / "trained.pt", "same")
    train(BASE, trained=kept)
    steps: list[int] = []
    shared = train(other, trained=kept, watch=Watch(step=lambda done, _: steps.append(done)))
    assert shared == train(other) and steps == []
    assert BASE.training() == other.training()


@pytest.mark.parametrize("recipe", [INDIVIDUAL, SANDWICH], ids=lambda r: r.name)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_trains_and_resumes_exactly(recipe: Recipe, precision: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.pt", "run", every=0.0)
    with pytest.raises(Killed):
        train(recipe, precision=precision, checkpoint=checkpoint, watch=kill_at(3))
    whole = train(recipe, precision=precision)
    assert train(recipe, precision=precision, checkpoint=checkpoint) == whole
    full = train(recipe)
    assert whole != full
    for one, other in zip(whole, full, strict=True):
        assert abs(one.metrics["noise"]["fit"] - other.metrics["noise"]["fit"]) < 0.5


def test_every_rule_trains_differently() -> None:
    rules = ("sandwich", "random", "smallest-random", "largest-random", "every")
    given = {"name": "base", "switches": SWITCHABLE.switches, "calibrate": 2}
    results = [train(Recipe(rule=r, **given, **({} if r == "every" else {"samples": 2})))[0].metrics for r in rules]
    assert all(a != b for i, a in enumerate(results) for b in results[i + 1 :])


def test_the_seed_decides_the_result() -> None:
    assert train(SANDWICH, seed=1) == train(SANDWICH, seed=1) != train(SANDWICH, seed=2)


def test_a_loss_that_is_not_finite_names_step_and_width() -> None:
    with pytest.raises(TrainingFailed, match="inf at step 3, width 1;"):
        train_recipe(ToyTask(poison=2), BASE, TrainingRun(STEPS, 0))


def test_a_switch_outside_the_task_s_widths_is_evaluated_too() -> None:
    assert [r.width for r in train(SWITCHES)] == [0.5, 1.0]


def damaged(kind: str, sound: bytes) -> bytes:
    if kind == "other network":
        content = torch.load(io.BytesIO(sound), weights_only=True)
        content["state"]["training"]["net"].popitem()
    elif kind == "another run":
        content = {"identity": "other", "state": {}}
    elif kind == "no state":
        content = {"identity": "run", "state": {"finished": 0}}
    else:
        return {"empty": b"", "garbage": b"garbage" * 50, "truncated": sound[: len(sound) // 2]}[kind]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["empty", "garbage", "truncated", "other network", "another run", "no state"])
def test_a_damaged_checkpoint_is_set_aside_and_training_starts_anew(kind: str, tmp_path: Path) -> None:
    warnings: list[str] = []
    checkpoint = Checkpoint(tmp_path / "run.pt", "run", every=0.0, warn=warnings.append)
    with pytest.raises(Killed):
        train(SANDWICH, checkpoint=checkpoint, watch=kill_at(3))
    checkpoint.path.write_bytes(damaged(kind, checkpoint.path.read_bytes()))
    assert train(SANDWICH, checkpoint=checkpoint) == train(SANDWICH)
    assert len(warnings) == 1 and "run.pt" in warnings[0] and "\n" not in warnings[0]
    assert (tmp_path / "run.pt.corrupt").exists()


class Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> object:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_hostile_checkpoint_is_refused_and_runs_nothing(form: str, tmp_path: Path) -> None:
    path, content = tmp_path / "run.pt", {"identity": "run", "state": Hostile(tmp_path / "witness")}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(HostileCheckpointError, match=r"run\.pt"):
        train(SANDWICH, checkpoint=Checkpoint(path, "run"))
    assert path.exists() and not (tmp_path / "witness").exists()
