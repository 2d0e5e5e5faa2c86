"""A run that is killed at any moment goes on to the records and tables of one that was left alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from socket import socketpair

import pytest

from tasks.atomic import remove_stale, write_atomically
from tests.faults.crash_points import begun, crashes, ended
from tests.faults.extent import KILLS, LONG, chance
from tests.faults.processes import BENCHMARK, TOY, killed_at_random

SMALL = {
    "sr": "steps=12 task.features=8 task.blocks=1 only=[individual,sandwich]",
    "classification": "steps=8 only=[individual,sandwich]",
    "rl": "steps=2000 task.episodes=2 task.curve_episodes=1 only=[individual,sandwich]",
}


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_killed_at_random_moments_a_run_goes_on_to_the_same_records_and_tables(tmp_path: Path) -> None:
    found = killed_at_random(TOY, tmp_path, kills=KILLS, moments=chance())
    print(found)
    assert (found.kills, found.differences) == (KILLS, ())


@pytest.mark.nightly
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("task", SMALL)
def test_killed_at_random_moments_every_task_goes_on(task: str, tmp_path: Path) -> None:
    command = (*BENCHMARK, f"task={task}", "checkpoint_seconds=0.5", "tracker=none", *SMALL[task].split())
    found = killed_at_random(command, tmp_path, kills=KILLS, moments=chance())
    print(found)
    assert (found.kills, found.differences) == (KILLS, ())


@pytest.mark.timeout(14400)
def test_killed_before_any_operation_on_the_disk_a_run_goes_on(tmp_path: Path) -> None:
    """At those where files change hands; in the long form at each of all."""
    found = crashes(tmp_path.resolve(), everywhere=LONG)
    assert {Path(crash.operation).suffix for crash in found} >= {".pt", ".safetensors", ".json", ".csv"}
    assert [crash for crash in found if crash.codes != (-9, 0) or crash.differences] == []


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    here, there = socketpair()
    here.settimeout(60)

    def write() -> int:
        def wait(_: int) -> None:
            there.send(b"w")
            there.recv(1)

        os.fsync = wait
        write_atomically(tmp_path / "file", "written")
        return 0

    writers = [begun(write) for _ in range(2)]
    assert here.recv(1) + here.recv(1) == b"ww"
    os.kill(writers[0], signal.SIGKILL)
    assert ended(writers[0]) == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    remove_stale(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    here.send(b"g")
    assert ended(writers[1]) == 0
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "written")]


def test_other_files_are_not_taken_for_stale_ones(tmp_path: Path) -> None:
    write_atomically(tmp_path / ".file.tmp.txt", "kept")
    write_atomically(tmp_path / "file.tmp", "kept")
    (tmp_path / ".folder.tmp").mkdir()
    remove_stale(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
