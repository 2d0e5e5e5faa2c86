"""Super-resolution on the packaged photographs: short trainings stay within a stored band.

The bands are in `sr_tiny.csv` and `sr_sandwich_tiny.csv`; `python -m tests.regression.bands` makes them anew, and
belongs to a change only where the change is meant to move results.
"""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.run import DONE, main
from tests.regression.bands import SANDWICH, SHORT, TOLERANCE, full_sandwich, short_arguments

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    assert main(short_arguments(results)) == DONE
    return results


def test_every_recipe_and_width_is_within_its_band(short_run):
    columns = ["recipe", "width", "dataset", "metric"]
    table = pd.read_csv(short_run / "sr/sandwich/tiny/table.csv").fillna({"width": 0}).set_index(columns)["mean"]
    band = pd.read_csv(HERE / SHORT).fillna({"width": 0}).set_index(columns)["mean"]
    assert set(table.index) == set(band.index)
    for key, value in band.items():
        assert table[key] == pytest.approx(value, abs=TOLERANCE[key[-1]]), key


def test_finished_run_is_cached_and_its_table_is_the_same(short_run, capsys):
    folder = short_run / "sr/sandwich/tiny"
    before = {name: (folder / name).read_bytes() for name in ("table.csv", "table.md", "table.tex", "figure.svg")}
    assert main(short_arguments(short_run)) == DONE
    assert capsys.readouterr().out.count("done (cached)") == 5
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_sandwich_of_full_length_beats_bicubic_and_orders_its_widths():
    scores = full_sandwich()
    band = pd.read_csv(HERE / SANDWICH).set_index("width")["psnr"]
    for width, value in band.drop("bicubic").items():
        assert scores[float(width)] == pytest.approx(value, abs=TOLERANCE["psnr"])
    assert scores[1.0] > band["bicubic"] + 0.3
    assert scores[0.25] < scores[0.5] < scores[1.0]
