"""Wrong arguments are told in one line, with what would be right, and nothing is written."""

from __future__ import annotations

import os
import resource
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from benchmarks.report.__main__ import main
from benchmarks.running.command import DONE, FAILED, WRONG_SETTINGS
from tests.benchmarks.report.small_results import sr_records, write_all
from tests.faults.crash_points import forked

WRONG = [
    ("result={here}", "unknown key 'result'; did you mean 'results'?"),
    ("results", "write key=value"),
    ("results=", "write key=value"),
    ("--results=x", "unknown key '--results'; did you mean 'results'?"),
    ("results={here}/nowhere", "does not exist; name the folder that runs have written to"),
    ("results={here}/file", "is a file; name the folder"),
    ("to={here}", "is a folder; name a file in it"),
    ("to={here}/page.md", "does not end in .html"),
    ("to={here}/file/page.html", "is a file, no folder can be made there"),
]


@pytest.mark.parametrize(("argument", "message"), WRONG)
def test_a_wrong_argument_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    (tmp_path / "file").touch()
    given = [argument.format(here=tmp_path)]
    if not argument.startswith("results="):
        given.append(f"results={tmp_path}")
    assert main(given) == WRONG_SETTINGS
    told = capsys.readouterr().err
    assert told.startswith("error: ") and message in told and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_key_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"results={tmp_path}", "results=other"]) == WRONG_SETTINGS
    assert "results= is given twice" in capsys.readouterr().err


def test_help_tells_the_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == DONE
    assert "[results=results] [to=results/report.html]" in capsys.readouterr().out


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc, where nothing can be written")
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(sr_records(), tmp_path)
    assert main([f"results={tmp_path}", "to=/proc/self/report.html"]) == FAILED
    assert "report.html" in capsys.readouterr().err


def limited(results: Path) -> int:
    """Make the page where no file may grow large; what is said goes to a file beside the results."""
    sys.stderr = results.with_name("told").open("w")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        return main([f"results={results}"])
    finally:
        sys.stderr.close()


def test_a_page_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    results = tmp_path / "results"
    write_all(sr_records(), results)
    (results / "report.html").write_text("old")
    assert forked(partial(limited, results)) == FAILED
    assert (tmp_path / "told").read_text().startswith(f"error: Cannot write {results / 'report.html'}: File too large")
    assert (results / "report.html").read_text() == "old"
    assert not list(results.glob(".*"))
