"""Whether choosing channels pays: paired with the right baseline, and no better than the seeds can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.analysis.figures import figure
from benchmarks.analysis.findings import finding
from benchmarks.analysis.plans import leads, plan_grids
from benchmarks.analysis.plans_figure import plans_figure
from benchmarks.analysis.results import Results
from benchmarks.records.folder import ResultsFolder
from benchmarks.records.record import MetricInfo, Record, Row, read_record, write_record
from benchmarks.tables.writing import write_tables

ERRORS = {
    ("random", None): [10.0, 10.5, 9.5],
    ("random", "scratch"): [8.0, 8.5, 7.5],
    ("greedy", None): [8.9, 9.6, 8.5],  # better by 1.1, 0.9, 1.0
    ("greedy", "scratch"): [8.5, 8.0, 8.1],  # better by -0.5, 0.5, -0.6
    ("evolution", None): [12.0, 12.6, 11.4],
}


def record(search: str, retrain: str | None, seed: int, error: float, **training: Any) -> Record:
    evaluations = {"greedy": 50.0, "evolution": 200.0}.get(search, 100.0)
    found = {"held_out_loss": error / 10, "evaluations": evaluations}
    row = {"kind": "plan", "channels": [8, 4], "macs": 100.0, "params": 10, "metrics": {"test": {"error": error}}}
    return Record(
        task="classification",
        ablation="search",
        question="Does it pay?",
        recipe=search if retrain is None else f"{search}, from {retrain}",
        position=0,
        seed=seed,
        hash="0",
        scale="small",
        data="noise",
        dataset="noise",
        protocol="Error.",
        steps=1,
        input=[1, 3],
        metrics=[MetricInfo(name="error", unit="%", better="lower")],
        eval_sets=["test"],
        rows=[Row(point="budget 0.5", found=found, **row)],
        baselines={},
        training={"kind": "slimmable", "budgets": [0.5], "search": search, "retrain": retrain, **training},
        settings={},
        versions={},
        commit=None,
        host="",
        threads=1,
        seconds=0.0,
    )


def results(seeds: int = 3, **training: Any) -> Results:
    return Results(
        record(*key, seed, errors[seed], **training) for key, errors in ERRORS.items() for seed in range(seeds)
    )


def test_each_is_paired_with_random_plans_of_the_same_training() -> None:
    found = {lead.recipe: lead for lead in leads(results())}
    assert set(found) == {"greedy", "greedy, from scratch", "evolution"}
    greedy = found["greedy"]
    assert greedy.value == pytest.approx(1.0) and greedy.better
    reach = 4.302652729911275 * 0.1 / 3**0.5  # Student's t for two degrees of freedom
    assert (greedy.low, greedy.high) == pytest.approx((1.0 - reach, 1.0 + reach))
    assert not found["greedy, from scratch"].better, "the seeds differ by more than the lead"
    assert found["evolution"].worse


def test_a_search_of_more_evaluations_than_the_baseline_is_not_called_better() -> None:
    lead = next(lead for lead in leads(results()) if lead.recipe == "evolution")
    assert not lead.fair and lead.text(2).endswith(" *")


def test_the_verdict_counts_what_the_seeds_can_tell() -> None:
    found = finding(results())
    assert found == "greedy beat random plans in 1 of 3 comparisons (at most +1.00 [0.75, 1.25] %); 1 are worse"


def test_with_few_seeds_nothing_is_called_better() -> None:
    assert (
        finding(results(seeds=1))
        == "1 of 3 leads over random plans are above zero, too few seeds to tell. One seed only"
    )


def test_orders_are_compared_with_channels_as_trained() -> None:
    records = [
        record("uniform", None, seed, 10.0 + by + 0.1 * seed, order=order).model_copy(update={"recipe": order})
        for order, by in (("trained", 2.0), ("l2", 0.0), ("shuffled", 2.0))
        for seed in range(3)
    ]
    found = {lead.recipe: lead.value for lead in leads(Results(records))}
    assert found == pytest.approx({"l2": 2.0, "shuffled": 0.0})
    assert "beat channels as trained in 1 of 2" in finding(Results(records))


def test_tables_and_figure_are_written_from_records_alone(tmp_path: Path) -> None:
    records = results().records
    for one in records:
        assert read_record(write_record(one, tmp_path / "records")) == one
    write_tables(records, ResultsFolder(tmp_path))
    table = (tmp_path / "table.md").read_text()
    assert "| greedy | +1.00 [0.75, 1.25] |" in table
    assert "| evolution | 200 | 1.2000 |" in table
    assert "+1.00 [0.75, 1.25]" in (tmp_path / "table.tex").read_text()
    assert (tmp_path / "plans.png").stat().st_size > 1000


def test_where_nothing_is_chosen_there_is_neither() -> None:
    plain = Results([record("random", None, 0, 1.0).model_copy(update={"training": {"kind": "slimmable"}})])
    assert plan_grids(plain) == [] and plans_figure(plain) == {}


def test_plans_as_found_and_trained_are_drawn_apart_under_one_name() -> None:
    drawn = figure(results(), "Finding")["svg"].decode()
    for title in ("test, at once", "test, trained from scratch"):
        assert f"<!-- {title} -->" in drawn
    assert drawn.count("<!-- greedy -->") == 1 and "<!-- greedy, from scratch -->" not in drawn
