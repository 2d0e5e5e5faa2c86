"""A clock that is set back, again and again, changes no result and shows no nonsense."""

from __future__ import annotations

import io
import itertools
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.records.record import read_records
from benchmarks.runner import run
from benchmarks.running.progress import LineReporter
from tasks.training.checkpoint import Checkpoint
from tests.benchmarks.running.toy_run import toy_run, toy_settings
from tests.faults.outcome import differences
from tests.tasks.training.toy import ToyTask


def earlier(began: float) -> Callable[[], float]:
    """A clock that is set back by seconds each time somebody looks, and now and then on by an hour."""
    looks = itertools.count()

    def look() -> float:
        number = next(looks)
        return began - 7.0 * number + (3600.0 if number % 5 == 0 else 0.0)

    return look


def test_a_run_by_a_clock_that_is_set_back_leaves_the_same(tmp_path: Path) -> None:
    told = io.StringIO()
    settings = toy_settings(tmp_path / "back", seeds=(0,), checkpoint_seconds=30.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", earlier(1e6))
        patch.setattr(time, "time", earlier(1e9))
        assert run(settings, ToyTask, Console(file=told, width=200)) == 0
    records, _ = read_records(settings.folder / "records")
    assert len(records) == 3 and all(record.seconds >= 0 for record in records)
    assert not re.search(r"-\d+ (s|min|h)\b|in -", told.getvalue())
    assert toy_run(toy_settings(tmp_path / "straight", seeds=(0,))) == 0
    assert differences(tmp_path / "back", tmp_path / "straight") == []


def test_a_checkpoint_is_due_when_the_clock_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    checkpoint = Checkpoint(tmp_path / "x.pt", "x", every=30.0)
    for now, due in ((1000.0, False), (1029.9, False), (1030.0, True), (999.0, True)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        assert checkpoint.due() is due
    checkpoint.write({})
    assert not checkpoint.due(), "written at the new time"


def test_progress_is_told_when_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told = io.StringIO()
    reporter = LineReporter(Console(file=told, width=200), every=30.0)
    for done, now in enumerate((1000.0, 1000.0, 1031.0, 400.0, 431.0)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        reporter.start("sandwich", 10) if done == 0 else reporter.step(done, 0.5)
    lines = told.getvalue().splitlines()
    assert lines[1:] == [
        "sandwich: step 2/10, loss 0.5, 4 min 8 s left",
        "sandwich: step 4/10, loss 0.5, 3 min 6 s left",
    ]
