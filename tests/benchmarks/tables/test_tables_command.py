"""`python -m benchmarks.tables`: everything again from records alone, and a plain word for every mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.analysis.ablation import table_csv, table_md, table_tex
from benchmarks.analysis.collecting import collect
from benchmarks.analysis.findings import finding
from benchmarks.analysis.plans import plan_grids
from benchmarks.papers.published import PUBLISHED, read_published
from benchmarks.records.folder import ResultsFolder
from benchmarks.records.record import write_record
from benchmarks.running.command import DONE, FAILED, IN_USE, WRONG_SETTINGS
from benchmarks.tables.__main__ import main, read_arguments
from tests.benchmarks.records.records_of import record

RESULTS = PUBLISHED.parent
PAPERS = read_published()
WIDTHS = {0.25: 30.0, 1.0: 32.0}
FILES = ["figure.png", "figure.svg", "table.csv", "table.md", "table.tex"]


@pytest.fixture
def results(tmp_path: Path, one_paper: None) -> Path:
    """A folder with one ablation."""
    folder = tmp_path / "results"
    for recipe in ("random", "sandwich"):
        write_record(record(recipe, 0, WIDTHS), folder / "sr/sandwich/tiny/records")
    return folder


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_everything_is_made_from_records_alone_and_again_the_same(results: Path) -> None:
    assert main([f"results={results}"]) == DONE
    first = {path: path.read_bytes() for path in results.rglob("*.*") if path.is_file()}
    assert written(results / "sr/sandwich/tiny") == FILES
    assert written(results / "published/bicubic") == ["table.csv", "table.md", "table.tex"]
    for path in results.rglob("table.*"):
        path.unlink()
    assert main([f"results={results}"]) == DONE
    assert {path: path.read_bytes() for path in results.rglob("*.*") if path.is_file()} == first


def test_the_committed_tables_are_made_from_the_committed_records() -> None:
    for one in collect(RESULTS):
        table, place = one.tables[0], one.folder.path
        assert (place / "table.csv").read_text() == table_csv(table), place
        found, more = finding(table), plan_grids(table)
        assert (place / "table.md").read_text() == table_md(table, found, more), place
        assert (place / "table.tex").read_text() == table_tex(table, found, more), place


def test_tables_that_must_not_be_mixed_lie_apart_and_this_is_said(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results / "sr/sandwich/tiny"
    write_record(record("sandwich", 0, WIDTHS, steps=7, hash="b" * 12), folder / "records")
    assert main([f"results={results}"]) == DONE
    assert "| random | 30.00 | 32.00 |" in (folder / "table.md").read_text()
    other = folder / "other/2"
    assert written(other) == FILES
    assert " 7 steps " in (other / "table.md").read_text() and "random" not in (other / "table.md").read_text()
    assert f"{other}: other steps (7), kept apart from {folder}" in capsys.readouterr().out


def test_a_folder_without_a_table_leaves_the_others_theirs(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = record("sandwich", 0, WIDTHS, settings={"model": "wdsr-a", "multiplier": "wide"})
    write_record(odd, results / "sr/order/tiny/records")
    assert main([f"results={results}"]) == FAILED
    assert f"{results}/sr/order/tiny has no table: " in capsys.readouterr().err
    assert written(results / "sr/sandwich/tiny") == FILES


def test_damaged_timings_are_noted_and_all_tables_made(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / "perf/records").mkdir(parents=True)
    (results / "perf/records/half.json").write_text("{")
    assert main([f"results={results}"]) == DONE
    assert "half.json is not a performance record" in capsys.readouterr().err
    assert written(results / "sr/sandwich/tiny") == FILES


def test_a_damaged_record_is_named_and_the_rest_is_written(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / "sr/sandwich/tiny/records/half.json").write_text("{")
    assert main([f"results={results}"]) == FAILED
    told = capsys.readouterr().err
    assert "damaged record" in told and "half.json" in told and "sr/sandwich/tiny/records" in told
    assert written(results / "sr/sandwich/tiny") == FILES


def test_a_folder_that_a_run_works_in_is_left_to_it(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(record("random", 0, WIDTHS), results / "sr/sandwich/tiny/deeper/records")
    with ResultsFolder(results / "sr/sandwich/tiny").locked():
        assert main([f"results={results}"]) == IN_USE
    assert "another run is working in" in capsys.readouterr().err
    assert written(results / "sr/sandwich/tiny") == []
    assert written(results / "sr/sandwich/tiny/deeper") == FILES


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = results / "sr/sandwich/tiny"
    folder.chmod(0o500)
    try:
        assert main([f"results={results}"]) == FAILED
    finally:
        folder.chmod(0o700)
    assert f"{folder} cannot be written" in capsys.readouterr().err


def test_a_place_that_is_taken_by_a_file_is_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / "sr/sandwich/tiny/cache").write_text("")
    assert main([f"results={results}"]) == FAILED
    assert "cannot be written" in capsys.readouterr().err


def test_the_tables_of_a_paper_are_also_on_the_screen(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"results={results}", "paper=bicubic"]) == DONE
    told = capsys.readouterr().out
    assert "PSNR (dB) on Set5, Set14, B100" in told and "33.66" in told
    assert written(results / "sr/sandwich/tiny") == []  # this alone was asked for


def test_a_folder_without_records_makes_empty_columns(tmp_path: Path, results: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert main([f"results={tmp_path / 'empty'}"]) == DONE
    assert "| Set5 | 2 | 33.66 |  |" in (tmp_path / "empty/published/bicubic/table.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paper=us_net"], "unknown paper 'us_net'; did you mean 'us_nets'?"),
        (["papers=us_nets"], "unknown key 'papers'; did you mean 'paper'?"),
        (["us_nets"], "cannot read 'us_nets'; write key=value, for example paper=us_nets"),
        (["paper="], "cannot read 'paper='"),
        (["paper=wdsr", "paper=all"], "paper= is given twice: wdsr and all"),
        (["paper=all", "page=docs/ablations.md"], "paper= and page= cannot be combined"),
        (["results=nowhere"], "results=nowhere does not exist; name the folder that"),
        (["results=README.md"], "results=README.md is a file"),
        (["page=docs"], "page=docs is not a Markdown file; for example page=docs/ablations.md"),
        (["gpu_macs_per_second=fast"], "gpu_macs_per_second=fast must be a number above 0, for example 1e13"),
        (["gpu_macs_per_second=0"], "gpu_macs_per_second=0 must be a number above 0"),
        (["gpu_macs_per_second=nan"], "gpu_macs_per_second=nan must be a number above 0"),
    ],
)
def test_a_mistake_is_refused_with_what_would_be_right(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(RESULTS.parent)
    assert main(arguments) == WRONG_SETTINGS
    told = capsys.readouterr().err
    assert told.startswith(f"error: {message}") and told.count("\n") == 1


def test_the_rate_of_a_gpu_can_be_given(tmp_path: Path) -> None:
    settings = read_arguments([f"results={tmp_path}", "gpu_macs_per_second=2e14"])
    assert (settings.results, settings.gpu_macs_per_second) == (tmp_path, 2e14)


def test_help_lists_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == DONE
    told = capsys.readouterr().out
    assert all(source in told for source in PAPERS.sources)
