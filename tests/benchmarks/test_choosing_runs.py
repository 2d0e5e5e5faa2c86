"""Runs whose recipes share a first network and its searches, one after another and side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.running.command import DONE
from tasks.training.recipe import Recipe
from tests.benchmarks.running.toy_run import toy_run, toy_settings

SHARED: dict[str, Any] = {
    "range": (0.25, 1.0),
    "rule": "sandwich",
    "samples": 3,
    "calibrate": 2,
    "search": "greedy",
    "budgets": (0.6, 0.3),
    "effort": {"steps": 4, "batches": 1},
}
RECIPES = (
    Recipe("individual", kind="individual", budgets=(0.6, 0.3)),
    Recipe("greedy", **SHARED),
    Recipe("trained on", **SHARED, retrain="further"),
    Recipe("sorted", **{**SHARED, "search": "uniform"}, order="l2"),
)


def ran(results: Path, **changes: Any) -> Path:
    settings = toy_settings(results, ablation="search", recipes=RECIPES, seeds=(0,), **changes)
    assert toy_run(settings) == DONE
    return settings.folder


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran(tmp_path_factory.mktemp("results"))


def test_two_first_networks_and_a_search_in_each_are_kept(serial: Path) -> None:
    kept = serial / "cache" / "trained"
    assert (len(list(kept.glob("*.pt"))), len(list(kept.glob("*.json")))) == (2, 2)
    assert not list((serial / "cache" / "checkpoints").iterdir())


@pytest.mark.nightly
def test_side_by_side_gives_the_same_table(serial: Path, tmp_path: Path) -> None:
    beside = ran(tmp_path, launcher="joblib", jobs=2)
    assert (beside / "table.csv").read_bytes() == (serial / "table.csv").read_bytes()


def test_overwriting_trains_the_first_network_anew(tmp_path: Path) -> None:
    kept = ran(tmp_path) / "cache" / "trained"
    before = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    ran(tmp_path, overwrite="always")
    assert before.keys() == dict.fromkeys(kept.iterdir(), 0).keys()
    assert all(path.stat().st_mtime_ns > time for path, time in before.items())
