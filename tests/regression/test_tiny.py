"""Short trainings on data that ship with packages stay within a stored band.

The bands are in `<task>_tiny.csv` and `<task>_sandwich_tiny.csv`; `python -m tests.regression.bands` makes them anew,
and belongs to a change only where the change is meant to move results.
"""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.run import DONE, main
from tests.regression.bands import CARTPOLE, DIGITS, SR, Band

BANDS = (SR, DIGITS, CARTPOLE)

COLUMNS = ["recipe", "width", "dataset", "metric"]


@pytest.fixture(scope="module", params=BANDS, ids=lambda band: band.task)
def short_run(request, tmp_path_factory) -> tuple[Band, Path]:
    results = tmp_path_factory.mktemp("results")
    assert main(request.param.arguments(results)) == DONE
    return request.param, results


def means(path: Path) -> pd.Series:
    return pd.read_csv(path).fillna({"width": 0}).set_index(COLUMNS)["mean"]


def test_every_recipe_and_width_is_within_its_band(short_run):
    band, results = short_run
    table, stored = means(band.written(results) / "table.csv"), means(band.table)
    assert set(table.index) == set(stored.index)
    for key, value in stored.items():
        if key[0] == "none":
            continue  # what is not calibrated is noise; a test below looks at it
        assert table[key] == pytest.approx(value, abs=band.tolerance[key[-1]]), key


def test_finished_run_is_cached_and_its_table_is_the_same(short_run, capsys):
    band, results = short_run
    folder = band.written(results)
    before = {name: (folder / name).read_bytes() for name in ("table.csv", "table.md", "table.tex", "figure.svg")}
    assert main(band.arguments(results)) == DONE
    assert capsys.readouterr().out.count("done (cached)") == len(list((folder / "records").iterdir()))
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_widths_without_calibration_are_lost(short_run):
    band, results = short_run
    if band is not DIGITS:
        pytest.skip("only networks with BatchNorm are calibrated")
    error = means(band.written(results) / "table.csv").xs("top1_error", level="metric").droplevel("dataset")
    assert error["none", 0.25] > error["16 batches", 0.25] + 20


@pytest.fixture(scope="module")
def stored_sandwich():
    return {band.task: pd.read_csv(band.sandwich).set_index("width")[band.metric] for band in BANDS}


@pytest.mark.parametrize("band", BANDS, ids=lambda band: band.task)
def test_sandwich_of_full_length_is_within_its_band(band, stored_sandwich):
    scores = band.full_sandwich()
    for width, value in stored_sandwich[band.task].items():
        tolerance = band.sandwich_tolerance or band.tolerance[band.metric]
        assert scores[float(width)] == pytest.approx(value, abs=tolerance)
    if band is SR:
        bicubic = means(SR.table)["bicubic", 0, "photos", "psnr"]
        assert scores[1.0] > bicubic + 0.3
        assert scores[0.25] < scores[0.5] < scores[1.0]
    elif band is CARTPOLE:
        assert scores[1.0] >= 475, "which is called solved"
        assert scores[0.0625] >= 400
    else:
        assert max(scores.values()) < 15  # of 90 by chance
