"""Learning curves: how seeds are put together, and when there is a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.analysis.curves import Curve, aligned, curves_figure, lines_of
from benchmarks.analysis.results import Results
from benchmarks.records.folder import ResultsFolder
from benchmarks.records.record import Record
from benchmarks.tables.writing import write_tables
from tests.benchmarks.records.records_of import Points, policy, record


def trained(recipe: str, seed: int, points: Points) -> Record:
    """A record whose two widths have the same curve."""
    return policy(recipe, seed, {w: [points[-1][1]] for w in (0.0625, 1.0)}, {0.0625: points, 1.0: points})


def rising(seed: int) -> Points:
    return [(1_000.0, 100.0 + seed), (2_000.0, 200.0), (3_000.0, 300.0 - seed)]


def curve(*points: tuple[float, float]) -> Curve:
    return Curve(*np.asarray(points).T)


def test_as_many_points_belong_together_one_by_one() -> None:
    steps, values = aligned([curve((10, 1), (20, 2)), curve((12, 3), (22, 6))])
    assert steps.tolist() == [11, 21] and values.tolist() == [[1, 2], [3, 6]]


def test_other_points_are_interpolated_within_all_curves_and_never_beyond() -> None:
    steps, values = aligned([curve((0, 0), (10, 1), (20, 2), (30, 3)), curve((5, 5), (15, 15), (40, 40))])
    assert steps.tolist() == [5, 15] and values.tolist() == [[0.5, 1.5], [5, 15]]


def test_the_mean_and_the_spread_are_over_seeds() -> None:
    results = Results([trained("sandwich", seed, rising(seed)) for seed in range(3)])
    (line,) = lines_of(results, "sandwich")["1"]
    assert line.steps.tolist() == [1_000, 2_000, 3_000]
    assert line.values.tolist() == [101, 200, 299]
    assert line.spread is not None and line.spread.tolist() == [[100, 200, 298], [102, 200, 300]]


def test_with_five_seeds_it_is_the_interquartile_mean_within_its_range() -> None:
    first = (500.0, 120.0, 480.0, 490.0, 440.0)
    results = Results([trained("sandwich", seed, [(1.0, v), (2.0, 500.0)]) for seed, v in enumerate(first)])
    (line,) = lines_of(results, "sandwich")["1"]
    assert line.values.tolist() == [470, 500]
    assert line.spread is not None and line.spread.tolist() == [[440, 500], [490, 500]]


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_are_a_line_each(seeds: int) -> None:
    results = Results([trained("sandwich", seed, rising(seed)) for seed in range(seeds)])
    lines = lines_of(results, "sandwich")["0.0625"]
    assert [line.values[0] for line in lines] == [100.0 + seed for seed in range(seeds)]
    assert all(line.spread is None for line in lines)


def test_no_mean_is_taken_over_a_missing_seed() -> None:
    whole = [trained("random", seed, rising(seed)) for seed in range(4)]
    results = Results(whole + [trained("sandwich", seed, rising(seed)) for seed in range(3)])
    assert len(lines_of(results, "random")["1"]) == 1
    assert len(lines_of(results, "sandwich")["1"]) == 3


def test_curves_without_common_steps_are_a_line_each() -> None:
    early, late = [(1.0, 1.0), (2.0, 2.0)], [(5.0, 1.0), (6.0, 2.0), (7.0, 3.0)]
    results = Results([trained("sandwich", seed, points) for seed, points in enumerate((early, early, late))])
    assert len(lines_of(results, "sandwich")["1"]) == 3


def test_the_figure_has_a_panel_a_recipe_and_the_same_bytes_again() -> None:
    recipes = ("individual", "random", "sandwich")
    results = Results([trained(recipe, seed, rising(seed)) for recipe in recipes for seed in range(3)])
    drawn = curves_figure(results, "Finding")
    assert drawn == curves_figure(results, "Finding")
    assert drawn["png"].startswith(b"\x89PNG")
    svg = drawn["svg"].decode()
    for text in (*recipes, "environment steps (thousands)", "return on CartPole-v1", "individual networks"):
        assert f"<!-- {text} -->" in svg


def test_a_recipe_without_curves_has_no_panel() -> None:
    results = Results([trained("random", 0, rising(0)), policy("sandwich", 0, {1.0: [500.0]})])
    svg = curves_figure(results, "Finding")["svg"].decode()
    assert "<!-- random -->" in svg and "<!-- sandwich -->" not in svg


def test_curves_are_written_only_where_there_are_some(tmp_path: Path) -> None:
    only_scored = [(3_000.0, 300.0)]
    for name, records, has in (
        ("learning", [trained("sandwich", 0, rising(0))], True),
        ("scored", [trained("sandwich", 0, only_scored)], False),
        ("images", [record("sandwich", 0, {1.0: 30.0})], False),
    ):
        (tmp_path / name).mkdir()
        write_tables(records, ResultsFolder(tmp_path / name))
        found = {path.name for path in (tmp_path / name).glob("curves.*")}
        assert found == ({"curves.png", "curves.svg"} if has else set())
