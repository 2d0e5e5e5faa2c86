"""Tables say what the records say, and nothing else."""

from __future__ import annotations

import csv
import io
import random
import re
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.analysis.ablation import COLUMNS, grids, shown_name, table_csv, table_md, table_tex
from benchmarks.analysis.figures import figure
from benchmarks.analysis.findings import finding
from benchmarks.analysis.grid import Grid, show_grid
from benchmarks.analysis.results import Results, Summary
from benchmarks.records.record import MetricInfo, Record
from tests.benchmarks.records.records_of import COSTS, policy, record

THREE_SEEDS = [
    record("individual", 0, {0.25: 30.0, 1.0: 32.0}),
    record("individual", 1, {0.25: 30.3, 1.0: 32.3}),
    record("individual", 2, {0.25: 30.6, 1.0: 32.1}),
    record("sandwich", 0, {0.25: 31.0, 0.5: 31.5, 1.0: 32.0}),
    record("sandwich", 1, {0.25: 31.2, 0.5: 31.7, 1.0: 32.2}),
    record("sandwich", 2, {0.25: 31.4, 0.5: 31.9, 1.0: 32.4}),
]


def rows(results: Results) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table_csv(results))))


def test_the_csv_has_the_numbers_computed_by_hand() -> None:
    lines = table_csv(Results(THREE_SEEDS)).splitlines()
    assert lines[:2] == [",".join(COLUMNS), "bicubic,,,,,,photos,psnr,29.5,,,29.5"]
    first = next(csv.DictReader(io.StringIO("\n".join([lines[0], lines[2]]))))
    assert [first[key] for key in ("recipe", "point", "kind", "width")] == ["individual", "0.25", "width", "0.25"]
    assert (first["macs"], first["params"]) == ("1000000", "1000")
    assert float(first["mean"]) == pytest.approx(30.3)
    assert float(first["std"]) == pytest.approx(0.3)
    assert (first["seeds"], first["values"]) == ("0;1;2", "30.0;30.3;30.6")
    assert len(lines) == 2 + 2 + 3


def test_the_markdown_has_a_row_a_recipe_and_a_column_a_width() -> None:
    assert table_md(Results(THREE_SEEDS), "Finding").splitlines()[4:] == [
        "**PSNR (dB) on photos, higher is better**",
        "",
        "| width | 0.25 | 0.5 | 1 |",
        "| --- | ---: | ---: | ---: |",
        "| multiply-adds | 1 M | 2.5 M | 10 M |",
        "| parameters | 1 k | 2.5 k | 10 k |",
        "| bicubic | 29.50 | 29.50 | 29.50 |",
        "| individual | 30.30 ± 0.30 |  | 32.13 ± 0.15 |",
        "| sandwich | 31.20 ± 0.20 | 31.70 ± 0.20 | 32.20 ± 0.20 |",
    ]


def test_the_caption_says_protocol_scale_steps_data_and_seeds() -> None:
    caption = Results(THREE_SEEDS).caption()
    for part in (
        "Which widths?",
        "PSNR on Y",
        "scale tiny",
        "1,200 steps",
        "photos",
        "seeds 0, 1, 2",
        "1 x 3 x 24 x 24",
    ):
        assert part in caption


def test_the_latex_is_escaped_and_balanced() -> None:
    tex = table_tex(Results([record("random", 0, {1.0: 30.0}, dataset="a_b & 50%")]), "Finding")
    assert "a\\_b \\& 50\\%" in tex
    assert tex.count("\\begin{") == tex.count("\\end{") and tex.count("{") == tex.count("}")


@pytest.mark.parametrize(("count", "text"), [(1, "31.00"), (2, "31.00 / 31.20")])
def test_fewer_than_three_seeds_are_each_shown(count: int, text: str) -> None:
    results = Results(THREE_SEEDS[3 : 3 + count])
    assert results.cell("sandwich", "0.25", "photos", "psnr").text(2) == text
    assert f"| sandwich | {text} |" in table_md(results, "Finding")
    assert rows(results)[1]["std"] == ("" if count == 1 else str(statistics.stdev([31.0, 31.2])))


def test_no_mean_is_taken_over_a_gap() -> None:
    results = Results([r for r in THREE_SEEDS if (r.recipe, r.seed) != ("individual", 1)])
    assert results.cell("individual", "0.25", "photos", "psnr").text(2) == "30.00 / 30.60 (2 of 3 seeds)"
    gap = next(row for row in rows(results) if row["recipe"] == "individual")
    assert (gap["mean"], gap["std"], gap["seeds"]) == ("", "", "0;2")


def test_a_recipe_that_lacks_a_seed_is_drawn_and_says_so() -> None:
    for records, told in ((THREE_SEEDS, False), (THREE_SEEDS[:-1], True)):
        texts = " ".join(re.findall("<!-- (.*?) -->", figure(Results(records), "Finding")["svg"].decode(), re.DOTALL))
        assert ("sandwich (2 of 3 seeds)" in " ".join(texts.split())) == told
    part = Results(THREE_SEEDS[:-1])
    assert part.summary("sandwich", "0.25", "photos", "psnr") is None
    assert part.summary("sandwich", "0.25", "photos", "psnr", partly=True) == Summary(pytest.approx(31.1), 0.0, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "T91"},
        {"protocol": "RGB"},
        {"steps": 10},
        {"scale": "small"},
        {"settings": {"model": "edsr"}},
        {"task": "other"},
    ],
)
def test_what_cannot_be_compared_is_not_put_into_one_table(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"different {next(iter(change))}"):
        Results([THREE_SEEDS[0], record("sandwich", 0, {1.0: 30.0}, **change)])


def test_two_records_of_one_recipe_and_seed_are_refused() -> None:
    with pytest.raises(ValueError, match="two records"):
        Results([THREE_SEEDS[0], THREE_SEEDS[0]])


def test_costs_that_differ_between_recipes_are_a_row_each() -> None:
    other = record("random", 0, {1.0: 30.0})
    dearer = other.model_copy(update={"rows": [other.rows[0].model_copy(update={"macs": 20_000_000})]})
    text = table_md(Results([THREE_SEEDS[3], dearer]), "Finding")
    assert "| multiply-adds, random |  |  | 20 M |" in text and "| parameters | 1 k | 2.5 k | 10 k |" in text


def test_the_finding_is_honest_about_the_spread() -> None:
    assert finding(Results(THREE_SEEDS)) == (
        "Width 0.25: sandwich 31.20 dB, 0.90 ahead of individual. "
        "Width 1: sandwich (32.20 dB) and individual are within the seeds' spread"
    )
    assert finding(Results([THREE_SEEDS[0], THREE_SEEDS[3]])).endswith("One seed only")
    assert finding(Results(THREE_SEEDS[:1])).startswith("Width 0.25: individual 30.00 dB. ")


def test_a_lead_that_the_table_does_not_show_is_none() -> None:
    results = Results([record("random", 0, {1.0: 30.001}), record("sandwich", 0, {1.0: 30.002})])
    assert finding(results) == "Width 1: sandwich and random level at 30.00 dB. One seed only"


def test_returns_have_one_decimal() -> None:
    results = Results([policy("random", 0, {1.0: [490.0, 491.5]}), policy("sandwich", 0, {1.0: [500.0, 500.0]})])
    assert finding(results) == "Width 1: sandwich 500.0, 9.2 ahead of random. One seed only"
    assert grids(results)[0].rows[-1] == ["sandwich", "500.0"]


def test_recipes_that_share_the_lead_are_counted() -> None:
    recipes = ("individual", "random", "sandwich")
    results = Results([policy(recipe, seed, {1.0: [500.0]}) for recipe in recipes for seed in range(3)])
    assert finding(results) == "Width 1: individual and 2 others level at 500.0"


def test_the_finding_compares_what_costs_about_the_same() -> None:
    dear = record("sandwich", 0, {0.25: 31.0, 1.0: 32.5})
    narrow, wide = dear.rows
    dear.rows[0] = narrow.model_copy(update={"macs": 5 * narrow.macs})  # most of its layers stay full
    others = [record("individual", 0, {0.25: 30.0, 1.0: 32.0}), record("random", 0, {0.25: 29.0, 1.0: 31.0})]
    assert finding(Results([dear, *others])) == (
        "Width 0.25: individual 30.00 dB, 1.00 ahead of random. "
        "Width 1: sandwich 32.50 dB, 0.50 ahead of individual. One seed only"
    )
    dear.rows[1] = wide.model_copy(update={"macs": 5 * wide.macs})
    assert finding(Results([dear, others[0]])).startswith("Width 0.25: individual 30.00 dB. Width 1: individual 32.00")


def test_the_finding_compares_rules_at_their_mean_costs() -> None:
    rules = []
    for recipe, value in (("random", 31.0), ("sandwich", 31.5)):
        made = record(recipe, 0, {0.25: value, 1.0: 32.0})
        made.rows.append(made.rows[0].model_copy(update={"point": "cost 0.4", "kind": "per-input", "width": None}))
        rules.append(made)
    assert finding(Results(rules)) == "Cost 0.4: sandwich 31.50 dB, 0.50 ahead of random. One seed only"


def test_the_finding_compares_no_recipe_that_lacks_a_seed() -> None:
    results = Results(THREE_SEEDS[1:])
    assert "missing" in finding(results)


def test_lower_is_better_where_the_metric_says_so() -> None:
    lower = [{"name": "psnr", "unit": "%", "better": "lower"}]
    results = Results(
        [record("random", 0, {1.0: 5.0}, metrics=lower), record("sandwich", 0, {1.0: 6.0}, metrics=lower)]
    )
    assert finding(results).startswith("Width 1: random 5.00 %, 1.00 ahead of sandwich")


def test_figures_are_the_same_bytes_for_the_same_records() -> None:
    results = Results(THREE_SEEDS)
    one, two = figure(results, "Finding"), figure(results, "Finding")
    assert one == two
    assert one["png"].startswith(b"\x89PNG") and b"<svg" in one["svg"] and b"<dc:date>" not in one["svg"]


@pytest.mark.parametrize(
    ("costs", "label", "logarithmic"),
    [
        ({0.25: 1_000_000, 1.0: 10_000_000}, "multiply-adds (millions)", False),
        ({0.25: 1_000, 1.0: 10_000}, "multiply-adds (thousands)", False),
        ({0.25: 40, 1.0: 400}, "multiply-adds", False),
        ({0.25: 40, 1.0: 4_480}, "multiply-adds", True),
        ({0.25: 20_000, 1.0: 9_000_000}, "multiply-adds (thousands)", True),
    ],
)
def test_the_axis_fits_networks_of_any_size(costs: dict[float, int], label: str, logarithmic: bool) -> None:
    measured = record("sandwich", 0, {0.25: 30.0, 1.0: 32.0})
    rows = [row.model_copy(update={"macs": costs[row.width]}) for row in measured.rows]
    svg = figure(Results([measured.model_copy(update={"rows": rows})]), "Finding")["svg"].decode()
    assert f"<!-- {label} -->" in svg
    assert ("<!-- 2,000 -->" in svg) == logarithmic


def test_the_figure_says_what_the_spread_of_returns_is_over() -> None:
    results = Results([policy("sandwich", seed, {0.25: [400.0 + seed], 1.0: [500.0]}) for seed in range(3)])
    assert "<!-- return (± standard deviation over seeds) -->" in figure(results, "Finding")["svg"].decode()


values = st.dictionaries(
    st.tuples(st.sampled_from(["individual", "random", "sandwich"]), st.integers(0, 4)),
    st.dictionaries(st.sampled_from(sorted(COSTS)), st.floats(-1e6, 1e6), min_size=1),
    min_size=1,
)


@given(values, st.randoms())
def test_tables_hold_every_value_and_no_other(
    measured: dict[tuple[str, int], dict[float, float]], dice: random.Random
) -> None:
    records = [record(recipe, seed, rows) for (recipe, seed), rows in measured.items()]
    results = Results(records)
    shuffled: list[Record] = dice.sample(records, len(records))
    assert table_csv(Results(shuffled)) == table_csv(results)
    found = {
        (row["recipe"], int(seed), float(row["width"])): float(value)
        for row in rows(results)
        if row["recipe"] != "bicubic"
        for seed, value in zip(row["seeds"].split(";"), row["values"].split(";"), strict=True)
        if seed
    }
    assert found == {(recipe, seed, w): v for (recipe, seed), by_width in measured.items() for w, v in by_width.items()}
    seeds = {seed for _, seed in measured}
    for row in rows(results):
        if row["recipe"] != "bicubic":
            assert bool(row["mean"]) == ({int(s) for s in row["seeds"].split(";")} == seeds)


def test_many_widths_make_a_row_each(monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results([record("individual", 0, {0.25: 30.0, 1.0: 32.0}), record("sandwich", 0, {0.5: 31.0, 1.0: 31.5})])
    wide = grids(results)[0]
    monkeypatch.setattr("benchmarks.analysis.ablation.WIDEST_GRID", 2)
    tall = grids(results)[0]
    assert tall.title == wide.title
    assert tall.head == [wide.head[0], *(row[0] for row in wide.rows)]
    assert tall.rows == [list(cells) for cells in zip(wide.head[1:], *(row[1:] for row in wide.rows), strict=True)]
    assert [row[0] for row in tall.rows] == ["0.25", "0.5", "1"]


def test_many_widths_have_a_mean_below_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.analysis.ablation.WIDEST_GRID", 2)
    grid = grids(Results(THREE_SEEDS))[0]
    assert grid.head == ["width", "multiply-adds", "parameters", "bicubic", "individual", "sandwich"]
    assert grid.rows[-1] == ["mean", "", "", "", "", "31.70 ± 0.20"]
    rest = grids(Results(THREE_SEEDS[:-1]))[0]
    assert rest.rows[-1][-1] == "31.50 / 31.70 (2 of 3 seeds)"


def test_numbers_on_a_narrow_screen_are_whole() -> None:
    numbers = [str(1000000 + n) for n in range(20)]
    console = Console(width=60, file=io.StringIO())
    show_grid(Grid("A table", ["width", *numbers], [["a recipe of many words", *numbers]]), console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(shown.count(number) == 2 for number in numbers)


def test_a_figure_without_a_whole_line_is_drawn() -> None:
    lacking = [record("random", 0, {1.0: 30.0}, baselines={}), record("sandwich", 1, {1.0: 31.0}, baselines={})]
    assert figure(Results(lacking), "finding")["png"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("psnr", "PSNR"), ("top1_error", "top-1 error"), ("ssim", "SSIM"), ("return", "return")],
)
def test_metrics_have_the_names_that_readers_know(name: str, shown: str) -> None:
    assert shown_name(MetricInfo(name=name, unit="", better="lower")) == shown
