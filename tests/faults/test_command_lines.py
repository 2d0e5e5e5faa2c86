"""No command line gives a trace: it is read, or refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks.settings.run import RunSettings, read_settings
from tests.extent import at_night
from tests.faults.command_lines import command_lines
from tests.faults.extent import EXAMPLES, LONG

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In an empty folder, whose files are counted quickly."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.mark.timeout(0 if LONG else 600)
@settings(
    max_examples=EXAMPLES,
    derandomize=not LONG,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=True,
)
@given(command_lines())
def test_any_command_line_is_read_or_refused_in_one_line(arguments: list[str]) -> None:
    try:
        assert isinstance(read_settings(arguments), RunSettings)
    except ValueError as error:
        assert type(error) is ValueError, repr(error)
        assert str(error).strip() and "\n" not in str(error) and "Traceback" not in str(error)


@pytest.mark.parametrize(
    "arguments", [["task=rl", "data.root=\udcff", "steps='\n'"], at_night(["--multirun", "seeds=0,1"])]
)
def test_the_process_ends_with_one_line_and_code_2(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.run", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
