"""A tracker is told every point once, and neither changes nor ends a training.

A run as a process of its own: `python -m tests.benchmarks.running.test_trackers <tracker> <results> <slow>`.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from benchmarks.run import main
from benchmarks.runner import run
from benchmarks.running.launchers.launch import among_ranks
from benchmarks.running.trackers import tracking
from benchmarks.running.trackers.tracking import Tracked, Tracking
from benchmarks.settings.tracker import TRACKERS, Mlflow, NoTracker, TensorBoard, Tracker, Wandb
from tasks.training.ranks import Ranks
from tests.benchmarks.running.toy_run import RECIPES, toy_run, toy_settings
from tests.benchmarks.test_runner import folder_of, records_of, wait_for_steps
from tests.tasks.training.toy import ToyTask

TIMEOUT = 400
ONE: dict[str, Any] = {"recipes": (RECIPES[2],), "seeds": (0,)}
OTHERS = ("wandb", "mlflow", "trackio")


def tracked(cache: Path, **changes: Any) -> Tracked:
    plain: dict[str, Any] = {
        "name": "sandwich-0-abc",
        "group": "toy/sandwich/tiny",
        "settings": {"recipe.rule": "sandwich", "steps": 6},
        "follows": "loss",
        "steps": 6,
        "cache": cache,
    }
    return Tracked(**plain | changes)


def points_of(cache: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Run -> tag -> (step, value), as TensorBoard reads its event files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = {}
    for folder in sorted((cache / "tensorboard").iterdir()):
        events = accumulator.EventAccumulator(str(folder), {"scalars": 0}).Reload()
        found[folder.name] = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
        }
    return found


def start(tracker: str, results: Path, *, slow: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.benchmarks.running.test_trackers", tracker, str(results), str(slow)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("untracked")
    assert toy_run(toy_settings(results, **ONE)) == 0
    return results


def test_tensorboard_reads_back_every_step_and_every_score(tmp_path: Path, untracked: Path) -> None:
    pytest.importorskip("tensorboard")
    assert toy_run(toy_settings(tmp_path, tracker=TensorBoard(seconds=0), **ONE)) == 0
    assert records_of(tmp_path) == records_of(untracked), "a tracker changes no result"
    ((name, tags),) = points_of(folder_of(tmp_path) / "cache").items()
    (record,) = records_of(tmp_path).values()
    assert name == f"sandwich-0-{record['hash']}"
    assert [step for step, _ in tags.pop("loss")] == [1, 2, 3, 4, 5, 6]
    scores = {
        f"{metric}/{dataset}/width {row['width']:g}": [(6, pytest.approx(value, rel=1e-6))]
        for row in record["rows"]
        for dataset, values in row["metrics"].items()
        for metric, value in values.items()
    }
    assert {tag: points for tag, points in tags.items() if not tag.startswith("_")} == scores


def test_a_killed_run_goes_on_in_the_same_one_and_tells_no_point_twice(tmp_path: Path, untracked: Path) -> None:
    pytest.importorskip("tensorboard")
    settings = toy_settings(tmp_path, tracker=TensorBoard(seconds=0), **ONE)
    process = get_context("fork").Process(target=toy_run, args=(settings,), kwargs={"slow": 0.3})
    process.start()
    wait_for_steps(tmp_path, 3)
    process.kill()
    process.join()
    assert toy_run(settings) == 0
    ((_, tags),) = points_of(folder_of(tmp_path) / "cache").items()
    steps = sorted(step for step, _ in tags["loss"])
    assert steps == sorted(set(steps)) and steps[0] == 1 and steps[-1] == 6 and len(steps) >= 5
    assert records_of(tmp_path) == records_of(untracked)


def test_a_run_that_is_done_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for _ in range(2):
        assert toy_run(toy_settings(tmp_path, tracker=TensorBoard(seconds=0), overwrite="always", **ONE)) == 0
    ((_, tags),) = points_of(folder_of(tmp_path) / "cache").items()
    assert [step for step, _ in tags["loss"]] == [1, 2, 3, 4, 5, 6]


class Remembers:
    """A sink that notes what it is told, or does not answer."""

    id = "run 1"

    def __init__(self, *, fails: bool = False, until: threading.Event | None = None) -> None:
        self.told: list[tuple[str, float, int]] = []
        self.finals: Mapping[str, float] | None = None
        self.fails, self.until = fails, until

    def tell(self, values: Mapping[str, float], step: int) -> None:
        if self.until is not None:
            self.until.wait()
        if self.fails:
            raise ConnectionError("no route to the server\nand more")
        self.told += [(key, value, step) for key, value in values.items()]

    def close(self, finals: Mapping[str, float] | None) -> None:
        self.finals = finals


def opened(monkeypatch: pytest.MonkeyPatch, sink: Remembers) -> list[str | None]:
    """Let the sink stand for the tracker; what it is opened with comes in the list."""
    before: list[str | None] = []

    def open_run(_: Tracker, __: Tracked, known: str | None) -> Remembers:
        before.append(known)
        return sink

    monkeypatch.setattr(tracking, "import_module", lambda _: SimpleNamespace(open_run=open_run))
    return before


def test_an_interrupted_training_goes_on_after_the_last_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Remembers()
    before = opened(monkeypatch, sink)
    for steps in (range(1, 5), range(3, 7), range(1, 3)):  # from the beginning; from a checkpoint; done again
        one = Tracking(TensorBoard(seconds=0), tracked(tmp_path), print)
        for step in steps:
            one.step(step, float(step))
        if steps[-1] == 6:
            one.finish({"psnr": 30.0})
        one.close()
    assert [step for _, _, step in sink.told] == [1, 2, 3, 4, 5, 6, 1, 2]
    assert before == [None, "run 1", None]


def test_points_come_no_faster_than_asked_and_the_last_always(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Remembers()
    opened(monkeypatch, sink)
    one = Tracking(TensorBoard(seconds=1000), tracked(tmp_path), print)
    for step, value in enumerate((float("nan"), 0.2, 0.3, 0.4, 0.5, 0.6), start=1):
        one.step(step, value)
    one.close()
    assert sink.told == [("loss", 0.2, 2), ("loss", 0.6, 6)]


def test_a_tracker_that_fails_is_told_once_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(monkeypatch, Remembers(fails=True))
    notes: list[str] = []
    one = Tracking(TensorBoard(seconds=0), tracked(tmp_path), notes.append)
    for step in range(1, 7):
        one.step(step, 1.0)
    one.finish({})
    one.close()
    assert notes == ["tracker=tensorboard failed (no route to the server); the training goes on without it"]


def test_a_tracker_that_does_not_answer_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    opened(monkeypatch, Remembers(until=answers))
    monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    notes: list[str] = []
    run_ = tracked(tmp_path, steps=5000)
    one = Tracking(TensorBoard(seconds=0), run_, notes.append)
    for step in range(1, 5001):  # more than are kept
        one.step(step, 1.0)
    one.close()
    assert not answers.is_set()
    assert notes == ["tracker=tensorboard does not answer; the last points may be missing there"]
    answers.set()


def test_a_damaged_note_of_where_a_run_stands_begins_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Remembers()
    before = opened(monkeypatch, sink)
    path = tmp_path / "tracking" / "tensorboard" / "sandwich-0-abc.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"run": "x", "st')
    one = Tracking(TensorBoard(seconds=0), tracked(tmp_path), print)
    one.step(1, 1.0)
    one.close()
    assert before == [None] and json.loads(path.read_text()) == {"run": "run 1", "step": 1, "finished": False}


def test_a_tracker_is_no_part_of_the_hash(tmp_path: Path) -> None:
    hashes = {toy_settings(tmp_path, tracker=tracker).hash_of(RECIPES[0]) for tracker in (NoTracker(), TensorBoard())}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("tracker=tensorbord", "unknown tracker 'tensorbord'; did you mean 'tensorboard'?"),
        ("tracker=none tracker.project=x", "unknown key 'tracker.project'"),
        ("tracker.seconds=-1", "tracker.seconds=-1 must be a number, at least 0"),
        ("tracker=wandb tracker.mode=ofline", "unknown tracker.mode 'ofline'; did you mean 'offline'?"),
        ("tracker=mlflow tracker.uri=7", "tracker.uri=7 must be text that is not empty, or null"),
        ("tracker=trackio tracker.project=''", "tracker.project='' must be text that is not empty"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(arguments: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert says in err and err.startswith("error: ") and err.count("\n") == 1 and not out


@pytest.mark.parametrize("tracker", ["tensorboard", *OTHERS])
def test_a_missing_package_is_named_at_once(
    tracker: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.settings.tracker.find_spec", lambda _: None)
    assert main([f"tracker={tracker}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: tracker={tracker} needs the package {tracker}: pip install ")
    assert err.endswith(", or choose tracker=none\n") and err.count("\n") == 1


def test_without_a_key_wandb_keeps_its_runs_and_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not Wandb().online and Wandb(mode="online").online
    assert "no API key" in Wandb().about(tmp_path) and f"wandb sync {tmp_path}/wandb/offline-*" in Wandb().about(
        tmp_path
    )
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert Wandb().online and not Wandb(mode="offline").online


def test_mlflow_keeps_its_runs_in_the_cache_unless_told_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Mlflow().place(tmp_path) == f"sqlite:///{tmp_path}/mlflow/runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert Mlflow().place(tmp_path) == "http://localhost:5000"
    assert Mlflow(uri="http://elsewhere").place(tmp_path) == "http://elsewhere"


@pytest.mark.parametrize("tracker", OTHERS)
def test_other_trackers_keep_every_point_once_over_a_kill(tracker: str, tmp_path: Path, untracked: Path) -> None:
    if find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed")
    process = start(tracker, tmp_path, slow=3)  # opening a run takes some seconds
    wait_until_told(tmp_path, 2)
    process.kill()
    process.communicate()
    process = start(tracker, tmp_path, slow=0)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, err
    assert "goes on without it" not in out and "does not answer" not in out
    assert records_of(tmp_path) == records_of(untracked)
    cache = folder_of(tmp_path) / "cache"
    steps = {"wandb": wandb_steps, "mlflow": mlflow_steps, "trackio": trackio_steps}[tracker](cache)
    assert steps == sorted(set(steps)) and steps[-1] == 6


def wait_until_told(results: Path, step: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        for path in folder_of(results).glob("cache/tracking/*/*.json"):
            if json.loads(path.read_text())["step"] >= step:
                return
        time.sleep(0.05)
    raise AssertionError("the tracker was told nothing")


def wandb_steps(cache: Path) -> list[int]:
    from wandb.proto import wandb_internal_pb2

    files = sorted(cache.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1, "the same run, twice opened"
    steps = []
    for data in (data for file in files for data in _leveldb_records(file.read_bytes())):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if any("loss" in (item.key, *item.nested_key) for item in record.history.item):
            steps.append(record.history.step.num)
    return steps


def _leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of a file of wandb: after 7 bytes, blocks of 32 KiB of (checksum, length, kind, data)."""
    at, begun = 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        if left < 7 or kind == 0:  # what is left of a block is padding
            at += left
            continue
        begun += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            yield begun
            begun = b""


def mlflow_steps(cache: Path) -> list[int]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{cache}/mlflow/runs.db")
    (run_,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run_.info.status == "FINISHED" and run_.data.params["recipe.rule"] == "sandwich"
    assert "fit/noise/width 0.5" in run_.data.metrics
    return [metric.step for metric in client.get_metric_history(run_.info.run_id, "loss")]


def trackio_steps(cache: Path) -> list[int]:
    import sqlite3

    (file,) = (cache / "trackio").glob("*.db")
    rows = sqlite3.connect(file).execute("select step, metrics from metrics order by id").fetchall()
    return [step for step, metrics in rows if "loss" in json.loads(metrics)]


def work(tracker: str, results: Path, slow: float, ranks: Ranks) -> int:
    settings = toy_settings(results, tracker=TRACKERS[tracker](seconds=0), **ONE)
    return run(settings, partial(ToyTask, slow=slow), Console(width=300, quiet=not ranks.leads), ranks)


if __name__ == "__main__":
    chosen, place, pause = sys.argv[1:]
    sys.exit(among_ranks(partial(work, chosen, Path(place), float(pause))))
