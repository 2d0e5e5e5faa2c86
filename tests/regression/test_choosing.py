"""The plans of digits, searched and trained for a moment: `python -m benchmarks.run` with the arguments below.

The band was stored from that very command; it is wide, since processors differ in the last bit and training spreads it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.run import main
from benchmarks.running.command import DONE

pytestmark = pytest.mark.nightly
RECIPES = ("uniform", "greedy", "greedy trained on")
ARGUMENTS = ("task=classification", "ablation=search", "steps=80", f"only=[{','.join(RECIPES)}]", "effort.batches=1")
ERRORS = {  # percent, at budgets of 0.125, 0.25 and 0.5
    "uniform": (10.3, 7.0, 4.5),
    "greedy": (16.7, 17.8, 6.1),
    "greedy trained on": (4.2, 3.1, 3.1),
}
TOLERANCE = {"uniform": 8.0, "greedy": 15.0, "greedy trained on": 4.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    assert main([*ARGUMENTS, f"results={results}"]) == DONE
    return results / "classification" / "search" / "tiny"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_within_its_band(recipe: str, folder: Path) -> None:
    table = pd.read_csv(folder / "table.csv").set_index(["metric", "recipe", "point"])["mean"]["top1_error"][recipe]
    assert list(table.index) == ["budget 0.125", "budget 0.25", "budget 0.5"]
    assert tuple(table) == pytest.approx(ERRORS[recipe], abs=TOLERANCE[recipe])


def test_the_network_and_the_search_are_shared(folder: Path) -> None:
    assert len(list((folder / "cache" / "trained").glob("*.pt"))) == 1
    assert len(list((folder / "cache" / "trained").glob("*.json"))) == 2  # uniform, greedy


def test_a_finished_run_is_cached_and_its_table_is_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: (folder / name).read_bytes() for name in ("table.csv", "table.md", "figure.svg", "plans.svg")}
    assert main([*ARGUMENTS, f"results={folder.parents[2]}"]) == DONE
    assert capsys.readouterr().out.count("done (cached)") == len(RECIPES)
    assert {name: (folder / name).read_bytes() for name in before} == before
