"""The interquartile mean over seeds: its number, its interval, and where there is none."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, trim_mean

from benchmarks.analysis.ablation import COLUMNS, SAMPLED_COLUMNS, grids, table_csv, table_md, table_tex
from benchmarks.analysis.aggregates import Aggregate, interquartile_mean, ratio_of_means
from benchmarks.analysis.figures import figure
from benchmarks.analysis.findings import finding
from benchmarks.analysis.results import Results
from benchmarks.records.record import Record
from tests.benchmarks.records.records_of import policy, record

SCORES = (500.0, 120.0, 480.0, 490.0, 440.0)  # without the best and the worst seed: 470 on the average
IQM_GRID = "IQM of return on CartPole-v1, 95 % bootstrap interval"


def policies(recipe: str, scores: tuple[float, ...] = SCORES) -> list[Record]:
    """A record a seed; the mean of its two episodes is the seed's score."""
    return [policy(recipe, seed, {0.25: [score - 10, score + 10]}) for seed, score in enumerate(scores)]


def rows(results: Results) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table_csv(results))))


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ([500.0, 120.0, 480.0, 490.0, 440.0], 470.0),
        ([8.0, 1.0, 7.0, 2.0, 6.0, 3.0, 5.0, 4.0], 4.5),
        ([1.0, 1.0, 1.0, 1.0, 100.0], 1.0),
    ],
)
def test_the_middle_half_computed_by_hand(scores: list[float], mean: float) -> None:
    assert interquartile_mean([scores]).value == pytest.approx(mean)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=20))
def test_it_is_the_trimmed_mean_of_scipy_and_its_interval_lies_within_the_scores(scores: list[float]) -> None:
    found = interquartile_mean([scores])
    assert found.value == pytest.approx(trim_mean(scores, 0.25))
    assert min(scores) - 1e-9 <= found.low <= found.high <= max(scores) + 1e-9


def test_the_interval_is_that_of_resampled_seeds() -> None:
    scores = np.random.default_rng(1).normal(300, 50, size=12)
    generator = np.random.default_rng(2)
    drawn = [trim_mean(generator.choice(scores, size=12), 0.25) for _ in range(4_000)]
    found = interquartile_mean([scores.tolist()])
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=4)


def test_the_interval_of_a_ratio_is_that_of_resampled_pairs() -> None:
    rng = np.random.default_rng(3)
    others = rng.normal(300, 50, size=10)
    values = others * rng.normal(1.2, 0.1, size=10)

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(a.mean(axis) / b.mean(axis))

    interval = bootstrap((values, others), ratio, paired=True, method="percentile", rng=4).confidence_interval
    found = ratio_of_means(values.tolist(), others.tolist())
    assert found.value == pytest.approx(values.mean() / others.mean())
    assert (found.low, found.high) == pytest.approx(tuple(interval), abs=0.005)
    with pytest.raises(ValueError, match="an interval needs 5 seeds, there are 4"):
        ratio_of_means([1.0] * 4, [1.0] * 4)


def test_seeds_are_resampled_within_each_evaluation_set() -> None:
    apart = interquartile_mean([[1.0] * 5, [9.0] * 5])
    assert apart == Aggregate(5.0, 5.0, 5.0)
    together = interquartile_mean([[1.0] * 5 + [9.0] * 5])
    assert together.low < 5.0 < together.high


def test_the_same_scores_give_the_same_interval() -> None:
    assert interquartile_mean([SCORES]) == interquartile_mean([SCORES])


def test_seeds_that_agree_leave_no_interval() -> None:
    assert interquartile_mean([[500.0] * 5]).text(1) == "500.0 [500.0, 500.0]"


@pytest.mark.parametrize("scores", [[], [[1.0] * 4], [[1.0] * 5, [1.0] * 4]])
def test_too_few_seeds_are_refused(scores: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="needs 5 seeds"):
        interquartile_mean(scores)


def test_tables_of_returns_have_a_second_grid() -> None:
    results = Results(policies("sandwich"))
    means, aggregates = grids(results)
    assert means.title == "return on CartPole-v1, higher is better"
    assert means.rows[-2:] == [["random actions", "21.2"], ["sandwich", "406.0 ± 161.5"]]
    assert aggregates.title == IQM_GRID
    assert aggregates.rows == [["sandwich", interquartile_mean([SCORES]).text(1)]]
    assert aggregates.rows[0][1].startswith("470.0 [")
    assert IQM_GRID in table_md(results, "Finding") and "95 \\% bootstrap" in table_tex(results, "Finding")


def test_findings_and_figures_go_by_the_middle_half() -> None:
    failed_once = policies("sandwich", (500.0, 499.0, 498.0, 497.0, 10.0))
    steady = policies("random", (480.0, 480.0, 480.0, 480.0, 480.0))
    assert finding(Results(failed_once)) == "IQM at width 0.25: sandwich 498.0"
    both = Results(failed_once + steady)
    assert finding(both) == "IQM at width 0.25: sandwich (498.0) and random are within the seeds' spread"
    label = "IQM of return, 95 % bootstrap interval"
    assert f"<!-- {label} -->" in figure(both, "Finding")["svg"].decode()


def test_a_lead_beyond_the_intervals_is_called_one() -> None:
    ahead = policies("sandwich", (500.0, 499.0, 498.0, 497.0, 496.0))
    results = Results(ahead + policies("random", (400.0, 410.0, 405.0, 390.0, 395.0)))
    assert finding(results) == "IQM at width 0.25: sandwich 498.0, 98.0 ahead of random"


def test_the_caption_says_what_is_aggregated() -> None:
    caption = Results(policies("sandwich")).caption()
    assert "each value is the mean of 2 episodes; IQM: mean of the middle half of the 5 seeds" in caption
    assert "95 % interval of 10,000 bootstrap samples" in caption


def test_the_csv_has_the_aggregate_in_full() -> None:
    results = Results(policies("sandwich"))
    assert table_csv(results).splitlines()[0] == ",".join([*COLUMNS, *SAMPLED_COLUMNS])
    baseline, measured = rows(results)
    assert [baseline[column] for column in SAMPLED_COLUMNS] == ["", "", ""]
    found = interquartile_mean([SCORES])
    assert [float(measured[column]) for column in SAMPLED_COLUMNS] == [found.value, found.low, found.high]


def test_a_missing_seed_leaves_the_cell_empty() -> None:
    results = Results(policies("random") + policies("sandwich")[:-1])
    whole, gap = grids(results)[1].rows
    assert whole[1] and gap == ["sandwich", ""]
    assert [rows(results)[-1][column] for column in SAMPLED_COLUMNS] == ["", "", ""]


def test_below_five_seeds_every_seed_is_shown_and_nothing_aggregated() -> None:
    results = Results(policies("sandwich", SCORES[:4]))
    assert grids(results)[1].title == "Every seed's return on CartPole-v1"
    assert grids(results)[1].rows == [["sandwich", "500.0 / 120.0 / 480.0 / 490.0"]]
    assert "IQM" not in table_md(results, "Finding")
    assert rows(results)[1]["iqm"] == ""


def test_two_seeds_are_shown_in_the_first_grid_already() -> None:
    (grid,) = grids(Results(policies("sandwich", SCORES[:2])))
    assert grid.rows[-1] == ["sandwich", "500.0 / 120.0"]


def test_tables_of_other_tasks_have_no_aggregates() -> None:
    results = Results([record("sandwich", seed, {1.0: 30.0 + seed}) for seed in range(5)])
    assert table_csv(results).splitlines()[0] == ",".join(COLUMNS)
    assert len(grids(results)) == 1 and "IQM" not in table_md(results, "Finding")
