"""Workers on one machine or many may die, be told to stop, or do a job twice: the table is the serial one."""

from __future__ import annotations

import os
import shutil
import signal
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.run import main
from benchmarks.runner import run
from benchmarks.running.jobs import chains, plan, run_job
from benchmarks.running.launchers.work import Assigned, Stamp, Work, record_file, stamp
from benchmarks.running.progress import LineReporter
from benchmarks.settings.launcher import Ray, Slurm
from benchmarks.settings.tracker import NoTracker, TensorBoard
from tests.benchmarks.running.playing_slurm import write_commands
from tests.benchmarks.running.tasks_of_workers import SaysWhere
from tests.benchmarks.running.test_trackers import points_of
from tests.benchmarks.running.toy_run import RECIPES, toy_run, toy_settings
from tests.benchmarks.test_runner import folder_of, records_of, start_process, wait_for_steps
from tests.extent import one_by_day
from tests.processes import Forked
from tests.tasks.training.toy import ToyTask

TIMEOUT = 400
TRACKED = find_spec("tensorboard") is not None
SETTINGS: dict[str, Any] = {"seeds": (0,), "recipes": RECIPES[:2]}
PACKAGES = {"joblib": "joblib", "ray": "ray", "slurm": "submitit"}
MANY = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed"))
    for name, package in PACKAGES.items()
]


def start(results: Path, launcher: str, *, slow: float = 0.1) -> Forked:
    """A run as a process of its own."""
    return Forked(partial(work, results, launcher, slow))


def work(results: Path, launcher: str, slow: float) -> int:
    task = partial(SaysWhere, results / "workers", slow=slow)
    tracker = TensorBoard(seconds=0) if TRACKED else NoTracker()
    name = "serial" if launcher == "array" else launcher
    settings = toy_settings(results, launcher=name, tracker=tracker, **SETTINGS)
    if launcher == "array":
        import submitit  # an extra

        from benchmarks.running.launchers import on_slurm

        on_slurm.ASKED_EVERY = 1.0  # seconds: the Slurm that is played answers at once
        submitit.SlurmJob._results_timeout_s = 1  # of waiting for a result that a job may have left
        array = Slurm(jobs=2, partition="gpu", timeout_min=5, mem_gb=2, options={"account": "vision"})
        settings = settings.replace(launcher=array)
    return run(settings, task, Console(width=300))


def worker_in_mid_training(process: Forked, results: Path) -> int:
    """The id of a process that has done two batches of a training, and so written a checkpoint, and does the next."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and process.is_alive():
        for path in (results / "workers").glob("*-2"):
            return int(path.name.partition("-")[0])
        time.sleep(0.005)
    raise AssertionError("no worker has begun")


def nothing_is_left_over(results: Path) -> bool:
    cache = folder_of(results) / "cache"
    left = [*cache.glob("checkpoints/*"), *cache.glob("locks/*"), *cache.glob("wanted-*"), *results.rglob(".*.tmp")]
    return left == []


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("serial")
    assert toy_run(toy_settings(results, **SETTINGS)) == 0
    return results


@pytest.mark.parametrize("launcher", one_by_day(MANY))
def test_a_killed_worker_costs_no_record_and_changes_no_table(launcher: str, tmp_path: Path, serial: Path) -> None:
    process = start(tmp_path, launcher)
    os.kill(worker_in_mid_training(process, tmp_path), signal.SIGKILL)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.exitcode == 0, err
    assert out.count("started again from its checkpoint, 1 of 3") == 1
    assert records_of(tmp_path) == records_of(serial) and len(records_of(tmp_path)) == len(RECIPES[:2])
    assert (folder_of(tmp_path) / "table.csv").read_bytes() == (folder_of(serial) / "table.csv").read_bytes()
    assert nothing_is_left_over(tmp_path)
    if TRACKED:
        losses = {name.split("-")[0]: tags["loss"] for name, tags in points_of(folder_of(tmp_path) / "cache").items()}
        assert {name: points[-1][0] for name, points in losses.items()} == {"individual": 18, "random": 6}
        assert all(len(points) == len(dict(points)) for points in losses.values()), "none is told twice"


@pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed")
def test_slurm_gets_an_array_and_a_killed_job_is_queued_again(
    tmp_path: Path, serial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_commands(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    process = start(tmp_path, "array")
    os.kill(worker_in_mid_training(process, tmp_path), signal.SIGKILL)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.exitcode == 0, err
    assert records_of(tmp_path) == records_of(serial)
    first, second = ((tmp_path / "bin" / f"{number}.sbatch").read_text() for number in (1, 2))
    for line in ("array=0-1%2", "partition=gpu", "account=vision", "time=5", "mem=2GB", "gpus-per-node=0", "requeue"):
        assert f"#SBATCH --{line}\n" in first
    assert "--array" not in second and "#SBATCH --partition=gpu\n" in second


@pytest.mark.nightly
@pytest.mark.parametrize("launcher", MANY[:2])
def test_stopping_the_run_stops_its_workers(launcher: str, tmp_path: Path) -> None:
    process = start(tmp_path, launcher, slow=0.5)
    worker = worker_in_mid_training(process, tmp_path)
    process.terminate()
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.exitcode == 130 and "the same command goes on" in err and "Traceback" not in err
    assert list(folder_of(tmp_path).glob("cache/checkpoints/*.pt")) and len(records_of(tmp_path)) < len(RECIPES[:2])
    deadline = time.monotonic() + 60
    while _lives(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _lives(worker)


def _lives(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.mark.nightly
@pytest.mark.parametrize("killed", [False, True])
def test_a_job_done_twice_at_once_is_recorded_once(killed: bool, tmp_path: Path, serial: Path) -> None:
    settings = toy_settings(tmp_path)
    job = plan(settings)[0]
    first = start_process(tmp_path, slow=0.05)  # in the order of the plan
    wait_for_steps(tmp_path, 2)
    if killed:
        first.kill()
        first.join()
    record = folder_of(tmp_path) / "records" / f"{job.name}.json"
    notes = Console(record=True, width=200)
    outcome = run_job(settings, job, ToyTask(), LineReporter(notes), lambda: False, recorded=record.exists)
    assert outcome.status == "trained"
    assert outcome.note.startswith("done in") if killed else outcome.note == "done by another process"
    assert ("another process is still working on it" in notes.export_text()) is not killed
    first.communicate(timeout=TIMEOUT)
    assert first.exitcode == (-signal.SIGKILL if killed else 0)
    assert records_of(serial).keys() & records_of(tmp_path).keys() >= {record.name}
    assert records_of(tmp_path)[record.name] == records_of(serial)[record.name]
    assert nothing_is_left_over(tmp_path)


def test_a_record_counts_as_done_only_if_it_was_written_since_the_run_began(tmp_path: Path, serial: Path) -> None:
    settings = toy_settings(tmp_path, **SETTINGS, overwrite="always")
    job = plan(settings)[1]
    (tmp_path / "wanted").touch()

    def work(before: Stamp) -> list[str]:
        one = Work.here([Assigned(settings, job, before)], ToyTask, tmp_path / "wanted")
        return [outcome.note.partition(" in")[0] for outcome in one()]

    shutil.copytree(serial / "toy", tmp_path / "toy")
    old = stamp(record_file(settings, job))
    assert work(old) == ["done"] and stamp(record_file(settings, job)) != old
    assert work(old) == ["done by another process"], "it was killed after the record, and is started again"


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    settings = toy_settings(tmp_path, **SETTINGS)
    jobs = [Assigned(settings, job, None) for job in chains(plan(settings))[0]]
    nowhere = tmp_path / "not mounted" / "wanted"
    (outcome,) = Work.here(jobs, ToyTask, nowhere)()
    assert outcome.status == "failed" and f"does not see {nowhere.parent}; start the run in" in outcome.note


def test_work_that_is_not_wanted_is_not_begun(tmp_path: Path) -> None:
    settings = toy_settings(tmp_path, **SETTINGS)
    jobs = [Assigned(settings, job, None) for job in chains(plan(settings))[0]]
    assert Work.here(jobs, ToyTask, tmp_path / "wanted")() == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("launcher=serial launcher.jobs=4", "launcher.jobs=4 must be 1 (jobs at once; launcher=joblib runs"),
        ("launcher=joblib launcher.retries=-1", "launcher.retries=-1 must be a whole number, at least 0"),
        ("launcher=joblib launcher.gpus_per_job=1", "unknown key 'launcher.gpus_per_job'"),
        ("launcher=slurm launcher.cluster=pbs", "unknown launcher.cluster 'pbs'; choose one of slurm, local"),
        ("launcher=slurm launcher.cluster=local launcher.partition=gpu", "launcher.partition has no meaning for"),
        ("launcher=slurm launcher.timeout_min=0", "launcher.timeout_min=0 must be a whole number, at least 1"),
        (
            "launcher=slurm launcher.mem_gb=none",
            "launcher.mem_gb='none' must be a number above 0, or null (memory",
        ),
        (
            "launcher=slurm launcher.options=7",
            "launcher.options=7 must be keys and values, for example {account: vision",
        ),
        ("launcher=slurm launcher.gpus_per_job=4", "several GPUs train one recipe by torchrun"),
        ("launcher=ray launcher.cpus_per_job=0", "launcher.cpus_per_job=0 must be a whole number, at least 1"),
        (
            "launcher=ray launcher.address=7",
            "launcher.address=7 must be text that is not empty, or null (auto",
        ),
        ("launcher=ray device=cuda", "device=cuda, and launcher.gpus_per_job=0: no GPU is reserved for a job"),
        ("launcher=ray launcher.gpus_per_job=0.5 device=cpu", "a GPU is reserved for each job"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(arguments: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert says in err and err.startswith("error: ") and err.count("\n") == 1 and not out


@pytest.mark.parametrize("launcher", MANY)
def test_a_missing_package_is_named_with_its_extra(
    launcher: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.settings.launcher.find_spec", lambda _: None)
    assert main([f"launcher={launcher}"]) == 2
    extra = {"joblib": "bench"}.get(launcher, launcher)
    needs = f"error: launcher={launcher} needs the package {PACKAGES[launcher]}: pip install -e '.[{extra}]'\n"
    assert capsys.readouterr().err == needs


def test_without_slurm_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("benchmarks.settings.launcher.find_spec", lambda _: "found")
    with pytest.raises(
        ValueError, match=r"no sbatch on this machine; start .* or try it here with launcher.cluster=loc"
    ):
        Slurm().check_here()


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    settings = toy_settings(tmp_path, **SETTINGS).replace(launcher=Ray(address="127.0.0.1:1"))
    assert run(settings, ToyTask, Console(quiet=True)) == 1
    err = capsys.readouterr().err
    assert err.startswith(
        "error: launcher.address=127.0.0.1:1: Connection refused; start a cluster with ray start --head"
    )
    assert err.count("\n") == 1
