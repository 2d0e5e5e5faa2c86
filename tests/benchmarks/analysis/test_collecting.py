"""Records below a results folder come out as tables that mix nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.analysis.collecting import collect, comparable
from benchmarks.analysis.results import ALIKE
from benchmarks.records.record import MetricInfo, write_record
from tests.benchmarks.records.records_of import record

WIDTHS = {0.25: 30.0, 1.0: 32.0}
OTHER: dict[str, Any] = {
    "task": "classification",
    "ablation": "norm",
    "scale": "small",
    "dataset": "Urban100",
    "protocol": "PSNR on RGB.",
    "steps": 7,
    "settings": {"model": "wdsr-b"},
    "input": [1, 3, 48, 48],
    "eval_sets": ["photos", "Urban100"],
    "metrics": [MetricInfo(name="ssim", unit="", better="higher")],
}


def test_every_property_of_a_table_is_tried_below() -> None:
    assert set(OTHER) == set(ALIKE)


@pytest.mark.parametrize("name", ALIKE)
def test_what_differs_in_a_property_of_a_table_is_another_table(name: str) -> None:
    records = [
        record("random", 0, WIDTHS),
        record("sandwich", 0, WIDTHS),
        record("sandwich", 0, WIDTHS, **{name: OTHER[name]}),
    ]
    tables = comparable(records)
    assert [len(table.records) for table in tables] == [2, 1]
    assert getattr(tables[1].first, name) == OTHER[name]


def test_a_recipe_trained_in_two_ways_is_in_two_tables() -> None:
    records = [record("sandwich", seed, WIDTHS, hash=hash_ * 12) for seed in (0, 1) for hash_ in "ab"]
    tables = comparable([*records, record("random", 0, WIDTHS)])
    assert [[r.hash[0] for r in table.of("sandwich")] for table in tables] == [["a", "a"], ["b", "b"]]
    assert [table.recipes for table in tables] == [["random", "sandwich"], ["sandwich"]]


def test_a_copied_record_counts_once() -> None:
    assert len(comparable([record("random", 0, WIDTHS), record("random", 0, WIDTHS)])[0].records) == 1


def test_folders_are_found_at_both_depths_and_damaged_files_told(tmp_path: Path) -> None:
    deep, deeper = tmp_path / "sr/sandwich/tiny", tmp_path / "sr/sandwich/tiny/benchmark"
    for folder in (deep, deeper):
        write_record(record("random", 0, WIDTHS), folder / "records")
    (deep / "records/half.json").write_text("{")
    (tmp_path / "perf/records").mkdir(parents=True)
    (tmp_path / "perf/records/timing.json").write_text("{}")
    found = list(collect(tmp_path))
    assert [one.folder.path for one in found] == [deep, deeper]
    assert [path.name for path in found[0].damaged] == ["half.json"]
    assert [len(one.tables) for one in found] == [1, 1]


def test_a_task_on_another_disk_is_found(tmp_path: Path) -> None:
    write_record(record("random", 0, WIDTHS), tmp_path / "disk/sandwich/tiny/records")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/sr").symlink_to(tmp_path / "disk")
    assert [len(one.tables) for one in collect(tmp_path / "results")] == [1]


def test_no_folder_is_no_table(tmp_path: Path) -> None:
    assert list(collect(tmp_path / "nowhere")) == []
