"""A disk that is full, too small or read-only costs nothing that was there, and is told by file and reason."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.benchmarks.running.toy_run import toy_run, toy_settings
from tests.faults.crash_points import forked
from tests.faults.outcome import differences, files_below, tables_below

PAGE = 4096
NOBODY = 65534


def can_mount() -> bool:
    """Whether this user may mount a disk in memory that nobody else sees."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="only root on Linux can mount a small disk")


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `tests.faults.small_disk` prints: for disks with so many pages left, and for a read-only one."""
    places = [tmp_path_factory.mktemp(name) for name in ("disk", "expected")]
    sizes = [str(PAGE * pages) for pages in range(16)]
    command = ["unshare", "-m", sys.executable, "-m", "tests.faults.small_disk", *map(str, places), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_mount
@pytest.mark.timeout(3600)
@pytest.mark.nightly
def test_a_full_disk_is_told_by_file_and_the_same_command_goes_on_when_there_is_room(
    small_disk: list[dict[str, Any]],
) -> None:
    for each in small_disk[:-1]:
        assert each["code"] == (1 if each["told"] else 0)
        assert each["stray"] == each["lost"] == each["cut off"] == []
        assert (each["then"], each["differences"]) == ([0, []], [])
    told = [line for each in small_disk[:-1] for line in each["told"]]
    assert all(line.startswith("error: ") and "No space left on device" in line for line in told)
    for file in (".pt", ".safetensors", ".json", "table.csv", "figure.png"):
        assert any("annot write " in line and f"{file}: " in line for line in told), file


@needs_mount
@pytest.mark.nightly
def test_results_that_have_become_read_only_are_told_and_intact(small_disk: list[dict[str, Any]]) -> None:
    found = small_disk[-1]
    assert (found["code"], found["intact"], len(found["told"])) == (1, True, 1)
    assert found["told"][0].startswith("error: Read-only file system: ")


def without_rights(results: Path) -> int:
    """A run by a user who may read the results, and write nothing."""
    with (results.parent / "told").open("w") as sys.stderr:
        if os.geteuid() == 0:
            os.setuid(NOBODY)
        return toy_run(toy_settings(results, seeds=(0,), steps=2))


def test_results_that_may_not_be_written_are_told_and_intact() -> None:
    with TemporaryDirectory() as name:  # outside of what pytest lets nobody else read
        place, results = Path(name), Path(name) / "results"
        assert toy_run(toy_settings(results, seeds=(0,), steps=2)) == 0
        before = tables_below(results)
        folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
        (place / "told").touch()
        for folder in folders:
            folder.chmod(0o555)
        try:
            code = forked(partial(without_rights, results))
        finally:
            for folder in folders:
                folder.chmod(0o755)
        (told,) = (place / "told").read_text().splitlines()
        assert (code, tables_below(results)) == (1, before)
        assert told.startswith("error: Permission denied: ")


def limited(results: Path, size: int) -> int:
    """A run that may write no file larger than `size`; what it says goes to a file beside the results."""
    sys.stderr = (results.parent / "told").open("w")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        return toy_run(toy_settings(results, seeds=(0,), steps=2))
    finally:
        sys.stderr.close()


@pytest.mark.parametrize(("size", "file"), [(1_000, ".pt"), (100_000, "figure.png")])
def test_a_file_that_is_too_large_is_told_and_the_same_command_goes_on(size: int, file: str, tmp_path: Path) -> None:
    results, expected = tmp_path / "results", tmp_path / "expected"
    assert forked(partial(limited, results, size)) == 1
    told = (tmp_path / "told").read_text().splitlines()
    assert told and all(line.startswith("error: ") and line.endswith("File too large") for line in told)
    assert any("annot write " in line and f"{file}: " in line for line in told)
    assert not [name for name in files_below(results) if name.endswith((".tmp", ".part"))]
    for place in (results, expected):
        assert toy_run(toy_settings(place, seeds=(0,), steps=2)) == 0
    assert differences(results, expected) == []
