"""Runs of the toy task from beginning to end, and everything that can go wrong in them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch import nn

from benchmarks.records.folder import ResultsFolder
from benchmarks.records.record import Record, read_record, read_records
from benchmarks.runner import run
from tasks.points import Scores
from tasks.training.checkpoint import Checkpoint
from tasks.training.recipe import Recipe
from tests.benchmarks.running.toy_run import RECIPES, toy_run, toy_settings
from tests.extent import at_night
from tests.processes import Forked
from tests.tasks.training.toy import ToyTask

TABLES = ("table.csv", "table.md", "table.tex", "figure.png", "figure.svg")


def folder_of(results: Path) -> Path:
    return results / "toy" / "sandwich" / "tiny"


def records_of(results: Path) -> dict[str, dict[str, Any]]:
    """File name -> record, without the seconds it took and the commit, which may be made meanwhile."""
    records, damaged = read_records(folder_of(results) / "records")
    assert not damaged
    return {record.file_name: record.model_dump(exclude={"seconds", "commit"}) for record in records}


def tables_of(results: Path) -> list[bytes]:
    return [(folder_of(results) / name).read_bytes() for name in TABLES]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("uninterrupted")
    assert toy_run(toy_settings(results)) == 0
    return results


def start_process(results: Path, *, slow: float, launcher: str = "serial") -> Forked:
    return Forked(lambda: toy_run(toy_settings(results, launcher=launcher), slow=slow))


def wait_for_steps(results: Path, count: int) -> None:
    """Until a checkpoint was written `count` times, as far as one can see from outside."""
    seen: set[tuple[str, int]] = set()
    deadline = time.monotonic() + 240
    while len(seen) < count and time.monotonic() < deadline:
        seen |= {entry for entry in results_seen(results) if entry[0].endswith(".pt")}
        time.sleep(0.005)
    assert len(seen) >= count


def wait_for_quiet(results: Path) -> None:
    """Until no process writes there any more."""
    before: object = None
    while before != (now := sorted(results_seen(results))):
        before = now
        time.sleep(1)


def results_seen(results: Path) -> Iterator[tuple[str, int]]:
    for path in folder_of(results).rglob("*.*"):
        with contextlib.suppress(FileNotFoundError):
            yield str(path), path.stat().st_mtime_ns


def test_a_run_leaves_records_tables_and_figures_and_no_time_stamps(uninterrupted: Path) -> None:
    folder = folder_of(uninterrupted)
    assert len(records_of(uninterrupted)) == len(RECIPES) * 2
    assert {path.name for path in folder.iterdir()} == {"records", "cache", *TABLES}
    assert not list(folder.glob("cache/checkpoints/*")), "a checkpoint is deleted when its record is written"
    assert (folder / "cache" / ".gitignore").read_text() == "*\n"


def test_a_record_tells_where_it_comes_from(uninterrupted: Path) -> None:
    record: Record = read_record(next((folder_of(uninterrupted) / "records").glob("sandwich-0-*.json")))
    assert (record.task, record.steps, record.seed, record.dataset) == ("toy", 6, 0, "noise")
    assert [row.width for row in record.rows] == [0.5, 0.75, 1.0]
    assert record.rows[0].macs < record.rows[1].macs < record.rows[2].macs
    assert set(record.versions) == {"python", "torch", "slimlib"}
    assert "cores" in record.host and os.uname().nodename not in record.model_dump_json()
    assert record.training["rule"] == "sandwich" and record.settings == {"width": 16}


def test_a_finished_run_is_cached_and_changes_nothing(uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, tables = records_of(uninterrupted), tables_of(uninterrupted)
    times = {path: path.stat().st_mtime_ns for path in folder_of(uninterrupted).glob("records/*")}
    assert toy_run(toy_settings(uninterrupted)) == 0
    assert capsys.readouterr().out.count("done (cached)") == 6
    assert (records_of(uninterrupted), tables_of(uninterrupted)) == (before, tables)
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_always_runs_again_and_never_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy_run(toy_settings(tmp_path, seeds=(0,), overwrite="never")) == 0
    assert "no record" in capsys.readouterr().out and not records_of(tmp_path)
    assert toy_run(toy_settings(tmp_path, seeds=(0,))) == 0
    capsys.readouterr()
    assert toy_run(toy_settings(tmp_path, seeds=(0,), overwrite="always")) == 0
    assert "cached" not in capsys.readouterr().out


def test_other_settings_are_other_records_and_not_in_the_table(tmp_path: Path) -> None:
    assert toy_run(toy_settings(tmp_path, seeds=(0,), steps=3)) == 0
    assert toy_run(toy_settings(tmp_path, seeds=(0,))) == 0
    assert len(records_of(tmp_path)) == 6
    text = (folder_of(tmp_path) / "table.md").read_text()
    assert "6 steps" in text and "3 steps" not in text


def test_a_further_seed_joins_the_table(tmp_path: Path, uninterrupted: Path) -> None:
    assert toy_run(toy_settings(tmp_path, seeds=(1,))) == 0
    assert toy_run(toy_settings(tmp_path, seeds=(0,))) == 0
    assert tables_of(tmp_path) == tables_of(uninterrupted)


def test_the_same_settings_in_another_ablation_are_shared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy_run(toy_settings(tmp_path, seeds=(0,), recipes=RECIPES[2:])) == 0
    capsys.readouterr()
    none = RECIPES[2].replace(name="none")
    other = toy_settings(
        tmp_path, seeds=(0,), ablation="distillation", recipes=(none, none.replace(name="l1", distill="l1"))
    )
    assert toy_run(other) == 0
    shown = capsys.readouterr().out
    assert "none, seed 0: done (shared with sandwich)" in shown and "l1, seed 0: done in" in shown
    records, _ = read_records(other.folder / "records")
    assert {(r.recipe, r.ablation) for r in records} == {("none", "distillation"), ("l1", "distillation")}


@pytest.mark.parametrize("number", [signal.SIGTERM, at_night(signal.SIGINT)])
def test_a_stopped_run_says_how_to_go_on(number: int, tmp_path: Path) -> None:
    process = start_process(tmp_path, slow=0.1)
    wait_for_steps(tmp_path, 2)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=240)
    assert process.exitcode == 130
    assert "the same command goes on" in out and "the same command goes on" in err and "Traceback" not in err
    (path,) = folder_of(tmp_path).glob("cache/checkpoints/*.pt")
    long_ago = Checkpoint(path, path.stem)
    state = long_ago.read()
    long_ago.spent.before = 1e6
    long_ago.write(state)
    assert toy_run(toy_settings(tmp_path)) == 0
    records, _ = read_records(folder_of(tmp_path) / "records")
    took = {f"{record.hash}-{record.seed}": record.seconds for record in records}
    assert took.pop(path.stem) > 1e6 and max(took.values()) < 1e6, "the time before it was stopped counts"


def test_the_workers_of_a_killed_run_stop_too(tmp_path: Path, uninterrupted: Path) -> None:
    process = start_process(tmp_path, slow=0.1, launcher="joblib")
    wait_for_steps(tmp_path, 2)
    process.kill()
    process.join()
    wait_for_quiet(tmp_path)
    assert len(list(folder_of(tmp_path).glob("records/*"))) < 6
    assert toy_run(toy_settings(tmp_path)) == 0
    assert tables_of(tmp_path) == tables_of(uninterrupted)


@pytest.mark.nightly  # that it does even where a worker is killed is tested with the launchers
def test_joblib_gives_the_serial_table(tmp_path: Path, uninterrupted: Path) -> None:
    assert toy_run(toy_settings(tmp_path, launcher="joblib", jobs=2)) == 0
    assert records_of(tmp_path) == records_of(uninterrupted)
    assert tables_of(tmp_path) == tables_of(uninterrupted)


def test_a_second_run_in_the_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = toy_settings(tmp_path)
    with ResultsFolder(settings.folder).locked():
        assert toy_run(settings) == 3
    err = capsys.readouterr().err
    assert str(settings.folder) in err and err.count("\n") == 1
    assert not records_of(tmp_path)


def test_a_failing_recipe_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(toy_settings(tmp_path, seeds=(0,)), Unbuildable, Console(width=200)) == 1
    err = capsys.readouterr().err
    assert (
        err == "error: individual, seed 0: failed: RuntimeError: the individual network of width 0.75 cannot be built\n"
    )
    assert {name.split("-")[0] for name in records_of(tmp_path)} == {"random", "sandwich"}
    assert "individual" not in (folder_of(tmp_path) / "table.md").read_text()


class Unscorable(ToyTask):
    def baselines(self) -> dict[str, Scores]:
        raise ValueError("image 3 cannot be scored")

    def build(self, width: float = 1.0, *, norm: str = "batch") -> nn.Module:
        raise AssertionError("it was trained")


def test_what_cannot_be_scored_fails_before_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = toy_settings(tmp_path, recipes=RECIPES[-1:], seeds=(0,))
    assert run(settings, Unscorable, Console(quiet=True)) == 1
    assert capsys.readouterr().err == f"error: {RECIPES[-1].name}, seed 0: failed: image 3 cannot be scored\n"


class Unbuildable(ToyTask):
    def build(self, width: float = 1.0, *, norm: str = "batch") -> Any:
        if width == 0.75:
            raise RuntimeError("the individual network of width 0.75 cannot be built\nwith a second line")
        return super().build(width)


def test_a_loss_that_is_not_finite_is_a_failure_with_step_and_width(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy_run(toy_settings(tmp_path, seeds=(0,)), poison=3) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 3 and "sandwich, seed 0: failed: the loss is inf at step 4, width 1;" in err
    assert not (folder_of(tmp_path) / "table.md").exists()


def test_a_damaged_record_is_named_and_trained_again(
    tmp_path: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(uninterrupted / "toy", tmp_path / "toy")
    path = next((folder_of(tmp_path) / "records").glob("random-1-*"))
    path.write_text(path.read_text()[:100])
    assert toy_run(toy_settings(tmp_path)) == 0
    assert f"damaged record, trained again; kept as {path.name}.corrupt: " in capsys.readouterr().out
    assert path.with_name(path.name + ".corrupt").exists()
    assert records_of(tmp_path) == records_of(uninterrupted)
    assert toy_run(toy_settings(tmp_path)) == 0


def test_a_damaged_record_of_other_settings_is_named_and_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = folder_of(tmp_path) / "records" / "other-0-123456789abc.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    assert toy_run(toy_settings(tmp_path, seeds=(0,))) == 1
    assert other.name in capsys.readouterr().err and other.exists()


def test_a_full_disk_leaves_earlier_records_and_says_so(
    tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy_run(toy_settings(tmp_path, seeds=(0,))) == 0
    before = records_of(tmp_path)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        assert toy_run(toy_settings(tmp_path)) == 1
    err = capsys.readouterr().err
    assert "No space left on device" in err and "Traceback" not in err
    assert records_of(tmp_path) == before
    assert not list(tmp_path.rglob("*.tmp"))
    assert toy_run(toy_settings(tmp_path)) == 0
    assert tables_of(tmp_path) == tables_of(uninterrupted)


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_hostile_checkpoint_fails_its_recipe_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = toy_settings(tmp_path, seeds=(0,))
    path = ResultsFolder(settings.folder).checkpoint(settings.hash_of(RECIPES[1]), 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({"identity": "x", "state": Runs(tmp_path / "witness")}))
    assert toy_run(settings) == 1
    err = capsys.readouterr().err
    assert path.name in err and "would run code" in err
    assert not (tmp_path / "witness").exists()
    assert len(records_of(tmp_path)) == 2


class Runs:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return Path.touch, (self.witness,)


def test_a_corrupt_checkpoint_is_set_aside_and_the_recipe_trained(
    tmp_path: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = toy_settings(tmp_path, seeds=(0,))
    path = ResultsFolder(settings.folder).checkpoint(settings.hash_of(RECIPES[1]), 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a file")
    assert toy_run(settings) == 0
    assert f"set aside as {path.name}.corrupt" in capsys.readouterr().out
    expected = records_of(uninterrupted)
    found = records_of(tmp_path)
    assert len(found) == len(RECIPES) and found == {name: expected[name] for name in found}


def test_results_that_cannot_be_written_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert toy_run(toy_settings(tmp_path / "file")) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1


SCORED = (
    Recipe("sandwich", range=(0.5, 1.0), rule="sandwich", samples=3, calibrate=2),
    Recipe("moving", range=(0.5, 1.0), rule="sandwich", samples=3, calibrate=2, average="moving"),
    Recipe("without", range=(0.5, 1.0), rule="sandwich", samples=3, calibrate=0),
)


@pytest.mark.parametrize("launcher", ["serial", at_night("joblib")])
def test_recipes_that_only_score_in_other_ways_share_one_training(
    launcher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    together = toy_settings(tmp_path / "together", recipes=SCORED, seeds=(1,), launcher=launcher, jobs=2)
    assert toy_run(together) == 0
    assert len(list((folder_of(tmp_path / "together") / "cache" / "trained").iterdir())) == 1
    for recipe in SCORED:
        alone = toy_settings(tmp_path / recipe.name, recipes=(recipe,), seeds=(1,))
        assert toy_run(alone) == 0
        (own,) = records_of(tmp_path / recipe.name).values()
        shared = records_of(tmp_path / "together")[f"{recipe.name}-1-{own['hash']}.json"]
        assert shared["rows"] == own["rows"]


def test_tuned_recipes_keep_their_trials_for_all_seeds_until_they_are_overwritten(tmp_path: Path) -> None:
    tuned = SCORED[0].replace(name="a/b, tuned", tune={"lr": (0.001, 0.01)}, tune_steps=0.5)
    settings = toy_settings(tmp_path, recipes=(tuned,), seeds=(0,))
    assert toy_run(settings) == 0
    (file,) = (folder_of(tmp_path) / "tuned").iterdir()
    (record,) = records_of(tmp_path).values()
    assert file.name == f"a_b_tuned-{record['hash']}.json"
    scores = json.loads(file.read_text())["scores"]
    wrong = {**scores, "lr=0.001, seed 0": {"width 0.5": -1.0}}
    file.write_text(json.dumps({"scores": wrong}))
    assert toy_run(settings.replace(seeds=(0, 1))) == 0
    first, second = (record["rows"][0]["found"] for record in records_of(tmp_path).values())
    assert (second["lr"], second["held_out_score"]) == (0.001, -1.0) and first["held_out_score"] > 0
    assert toy_run(settings.replace(overwrite="always")) == 0
    assert json.loads(file.read_text())["scores"] == scores


def test_overwriting_trains_anew(tmp_path: Path) -> None:
    settings = toy_settings(tmp_path, recipes=SCORED[::2], seeds=(0,))
    assert toy_run(settings) == 0
    (network,) = (folder_of(tmp_path) / "cache" / "trained").iterdir()
    before = records_of(tmp_path)
    network.write_bytes(b"not a network")
    assert toy_run(settings.replace(overwrite="always")) == 0
    assert records_of(tmp_path) == before and len(network.read_bytes()) > 1000
