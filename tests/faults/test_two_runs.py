"""Two runs at once: in one folder the second is refused; in two folders that share trainings both end as if alone."""

from __future__ import annotations

import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.records.folder import FolderInUse, ResultsFolder
from benchmarks.runner import run
from benchmarks.settings.run import RunSettings
from tests.benchmarks.running.toy_run import toy_run, toy_settings
from tests.faults.crash_points import SHARED
from tests.faults.outcome import files_below, records_below, tables_below
from tests.tasks.training.toy import ToyTask

FORK = get_context("fork")
NAMES = ("one", "other")


def state(results: Path) -> dict[str, tuple[int, int]]:
    """Place -> size and time of every file."""
    return {
        name: ((results / name).stat().st_size, (results / name).stat().st_mtime_ns) for name in files_below(results)
    }


def test_a_second_run_in_the_folder_is_refused_and_touches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = toy_settings(tmp_path)
    with ResultsFolder(settings.folder).locked():
        (settings.folder / ".table.csv.abcdefgh.tmp").write_text("half")  # of the first run, it may seem
        before = state(tmp_path)
        assert toy_run(settings) == 3
        assert state(tmp_path) == before
    out, err = capsys.readouterr()
    assert err == (
        f"error: another run is working in {settings.folder}; wait for it, or choose results=<another folder>\n"
    )
    assert not out


def test_what_cannot_begin_leaves_no_folder_and_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    folder = ResultsFolder(tmp_path / "results" / "sr" / "sandwich" / "tiny")
    for kept in (False, True):
        with pytest.raises(ValueError, match="no data"), folder.locked():
            if kept:
                folder.checkpoint("abc", 0).parent.mkdir(parents=True)
            raise ValueError("no data")
        assert (tmp_path / "results").exists()
        assert folder.checkpoint("abc", 0).parent.exists() == (folder.path.parent.parent.exists()) == kept


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    folder = ResultsFolder(toy_settings(tmp_path).folder)
    process = FORK.Process(target=toy_run, args=(toy_settings(tmp_path),), kwargs={"slow": 5.0})
    process.start()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with folder.locked():
                pass
        except FolderInUse:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the process never held the folder")
    process.kill()
    process.join()
    with folder.locked():
        pass


def of_ablation(results: Path, name: str) -> RunSettings:
    """Two ablations: one recipe is in both, under two names, and all four share one training."""
    shared = SHARED[0].replace(name=f"shared {name}")
    own = SHARED[1].replace(name=name, calibrate=2 if name == "one" else 3)
    return toy_settings(results, ablation=name, recipes=(shared, own), steps=4, seeds=(0,))


def work(results: Path, name: str, slow: float) -> int:
    """Run one of the ablations."""
    return run(of_ablation(results, name), lambda: ToyTask(slow=slow), Console(quiet=True))


@pytest.mark.nightly
def test_two_ablations_that_share_trainings_can_run_at_once(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    code = """if True:
        import pathlib, sys
        from tests.faults.test_two_runs import work
        sys.exit(work(pathlib.Path(sys.argv[1]), sys.argv[2], 0.1))
    """
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(together), name], stderr=subprocess.PIPE, text=True)
        for name in NAMES
    ]
    for process in processes:
        _, err = process.communicate(timeout=600)
        assert (process.returncode, err) == (0, "")
    for name in NAMES:
        assert work(alone / name, name, 0.0) == 0
        place = Path("toy") / name
        assert len(records_below(together / place)) == 2
        assert records_below(together / place) == records_below(alone / name / place)
        assert tables_below(together / place) == tables_below(alone / name / place)
    assert {Path(file).suffix for file in files_below(together) if "/cache/" in file} <= {"", ".pt", ".safetensors"}
