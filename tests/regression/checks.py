"""What every short training on data that ship with packages is held to. Each task has a file, and so a process.

The bands are in `<task>_tiny.csv` and `<task>_sandwich_tiny.csv`; `python -m tests.regression.bands` makes them again,
and belongs to a change only if the change is meant to move results.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.run import main
from benchmarks.running.command import DONE
from tests.extent import NIGHTLY
from tests.regression.bands import Band

COLUMNS = ["recipe", "width", "dataset", "metric"]


def means(path: Path) -> pd.Series:
    """The means of a table, by recipe, width, set and metric."""
    return pd.read_csv(path).fillna({"width": 0}).set_index(COLUMNS)["mean"]


class OfOneTask:
    """Tests of the band of a task: subclasses say which."""

    band: Band

    @classmethod
    def arguments(cls, results: Path) -> list[str]:
        return cls.band.arguments(results, only=() if NIGHTLY else cls.band.few)

    @pytest.fixture(scope="class")
    @classmethod
    def results(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        results = tmp_path_factory.mktemp("results")
        assert main(cls.arguments(results)) == DONE
        return results

    def table(self, results: Path) -> pd.Series:
        return means(self.band.written(results) / "table.csv")

    def test_every_recipe_and_width_is_within_its_band(self, results: Path) -> None:
        table, stored = self.table(results), means(self.band.table)
        if not NIGHTLY:
            runs = stored.index.get_level_values("width") > 0  # the others need no training
            stored = stored[~runs | stored.index.isin(self.band.few, level="recipe")]
        assert set(table.index) == set(stored.index)
        for key, value in stored.items():
            if key[0] == "none":
                continue  # what is not calibrated is noise; a test of classification looks at it
            assert table[key] == pytest.approx(value, abs=self.band.tolerance[key[-1]]), key

    def test_a_finished_run_is_cached_and_its_table_is_the_same(
        self, results: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = self.band.written(results)
        before = {name: (folder / name).read_bytes() for name in ("table.csv", "table.md", "table.tex", "figure.svg")}
        assert main(self.arguments(results)) == DONE
        assert capsys.readouterr().out.count("done (cached)") == len(list((folder / "records").iterdir()))
        assert {name: (folder / name).read_bytes() for name in before} == before

    @pytest.fixture(scope="class")
    @classmethod
    def scores(cls) -> dict[float, float]:
        """Of the sandwich recipe, trained as long as scale `tiny` trains it."""
        return cls.band.full_sandwich()

    @pytest.mark.nightly
    def test_sandwich_of_full_length_is_within_its_band(self, scores: dict[float, float]) -> None:
        stored = pd.read_csv(self.band.sandwich).set_index("width")[self.band.metric]
        tolerance = self.band.sandwich_tolerance or self.band.tolerance[self.band.metric]
        assert scores == pytest.approx({float(width): value for width, value in stored.items()}, abs=tolerance)
