"""Ours beside the published: only what is comparable, every cell from a record, nothing over a gap."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import slimlib as slim
from benchmarks.analysis.collecting import Collected, collect, comparable
from benchmarks.papers.beside import columns_apart, comparable_columns, composed, table_of_run
from benchmarks.papers.counting import FORWARD_AND_BACKWARD, training_macs
from benchmarks.papers.figure import paper_figure
from benchmarks.papers.paper import paper_csv, paper_md, paper_tex, sections
from benchmarks.papers.published import PUBLISHED, Beside, read_published
from benchmarks.papers.rates import ASSUMED_GPU_RATE, Rates, gpus
from benchmarks.records.folder import ResultsFolder
from benchmarks.records.record import MetricInfo, Record, Row
from benchmarks.settings.run import RunSettings
from benchmarks.tables.page import COMMAND, ablations_page
from slimlib import models

ROOT = PUBLISHED.parents[1]
RESULTS = ROOT / "results"
PAPERS = read_published()
RUNS = [run for ablation in PAPERS.ablations for run in ablation.runs]
BESIDE = [(name, own) for name, runs in PAPERS.ours.items() for own in runs]
S_MOBILENET = PAPERS.ours["s_mobilenet_v1"][0].run
IMAGENET: Mapping[str, Any] = {
    "dataset": "ImageNet, 1,281,167 images of 1000 classes, 160 a step",
    "protocol": "Top-1 and top-5 error in % on val (50,000 images), scaled to 256, the middle 224 x 224",
    "eval_sets": ["val"],
}


def measured(run: RunSettings, values: Mapping[float, float], seed: int = 0, **changes: Any) -> Record:
    """A record of the first recipe of a run, as it would be of the published data."""
    recipe = run.recipes[0]
    rows = [Row(width=w, macs=round(w * 1e9), params=1, metrics={"val": {"top1_error": v}}) for w, v in values.items()]
    plain: dict[str, Any] = {
        "task": run.task,
        "ablation": run.ablation,
        "question": run.question,
        "recipe": recipe.name,
        "position": 0,
        "seed": seed,
        "hash": "a" * 12,
        "scale": run.scale,
        "data": run.data,
        "steps": run.steps,
        "input": [1, 3, 224, 224],
        "metrics": [MetricInfo(name="top1_error", unit="%", better="lower")],
        "rows": rows,
        "baselines": {},
        "training": recipe.settings(),
        "settings": run.deciding | {"root": "elsewhere"},
        "versions": {},
        "commit": None,
        "host": "a CPU, 2 cores",
        "threads": 1,
        "seconds": 100.0,
    }
    record = Record(**plain | dict(IMAGENET) | changes)
    return Record.model_validate_json(record.model_dump_json())  # as read from a file: lists for tuples


def collected(*records: Record) -> list[Collected]:
    return [Collected(ResultsFolder(Path("results/x/y/z")), comparable(records), {})]


FOUR = {1.0: 29.0, 0.75: 31.0, 0.5: 36.0, 0.25: 47.0}


def test_a_record_of_the_published_run_stands_in_the_rows_of_its_widths() -> None:
    settings = composed(S_MOBILENET)
    (column,) = comparable_columns(PAPERS, "s_mobilenet_v1", collected(measured(settings, FOUR)))
    assert column.title == "ours: 4 switches, 3,843,501 steps (scale paper)"
    assert [column.text(row) for row in range(4)] == ["29.00", "31.00", "36.00", "47.00"]
    assert column.mean(4) == "35.75"
    assert "unlike" not in column.note


def test_widths_are_counted_as_the_paper_counts_them() -> None:
    settings = composed(PAPERS.ours["s_shufflenet"][0].run)
    (column,) = comparable_columns(PAPERS, "s_shufflenet", collected(measured(settings, {1.0: 29.0, 0.25: 43.0})))
    assert [column.text(row) for row in range(3)] == ["29.00", "", "43.00"]  # printed as 2.0, 1.0, 0.5


def test_no_mean_is_taken_over_a_missing_cell() -> None:
    settings = composed(S_MOBILENET)
    three = {width: value for width, value in FOUR.items() if width != 0.5}
    (column,) = comparable_columns(PAPERS, "s_mobilenet_v1", collected(measured(settings, three)))
    assert column.mean(4) == "(1 of 4 missing)"


def test_a_mean_over_seeds_that_differ_between_widths_is_missing_too() -> None:
    settings = composed(S_MOBILENET)
    three = {width: value for width, value in FOUR.items() if width != 0.5}
    ours = collected(measured(settings, FOUR), measured(settings, three, seed=1))
    (column,) = comparable_columns(PAPERS, "s_mobilenet_v1", ours)
    assert column.mean(4) == "(1 of 4 missing)" and column.text(2) == "36.00 (1 of 2 seeds)"


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "Top-1 error in % on val (100 images), scaled to 256, the middle 224 x 224"},
        {"dataset": "ImageNet, 5,000 images of 1000 classes, 160 a step"},
        {"eval_sets": ["search"]},
        {"settings": composed(S_MOBILENET).deciding | {"model": "resnet18"}},
        {"settings": composed(S_MOBILENET).deciding | {"size": 160}},
        {"training": composed(S_MOBILENET).recipes[0].settings() | {"norm": "shared"}},
        {"training": composed(S_MOBILENET).recipes[0].settings() | {"switches": (0.25, 1.0)}},
        {"task": "sr"},
    ],
    ids=lambda changes: "-".join(f"{key}" for key in changes),
)
def test_what_is_not_comparable_stands_beside_nothing(changes: dict[str, Any]) -> None:
    ours = collected(measured(composed(S_MOBILENET), FOUR, **changes))
    (column,) = comparable_columns(PAPERS, "s_mobilenet_v1", ours)
    assert column.title == "ours: 4 switches" and not column.cells


def test_a_shorter_training_is_comparable_in_a_column_of_its_own_that_says_so() -> None:
    settings = composed(S_MOBILENET)
    short = measured(settings, FOUR, steps=1000, settings=settings.deciding | {"batch": 64})
    whole, cut = comparable_columns(PAPERS, "s_mobilenet_v1", collected(measured(settings, FOUR), short))
    assert "unlike" not in whole.note
    assert cut.title == "ours: 4 switches, 1,000 steps (scale paper)"
    assert cut.note.endswith("unlike the published recipe: batch=64, steps=1000")


def test_bicubic_comes_from_the_baselines_of_the_same_protocol() -> None:
    y, rgb = PAPERS.comparable[PAPERS.tables["bicubic"].dataset].protocol.format(scale=2), "PSNR on RGB"
    baselines = {"bicubic": {"Set5": {"psnr": 33.6741}}}
    made = [
        measured(
            composed(S_MOBILENET), FOUR, task="sr", protocol=protocol, dataset="T91", eval_sets=["Set5"],
            metrics=[MetricInfo(name="psnr", unit="dB", better="higher")], baselines=baselines,
        )
        for protocol in (y, rgb)
    ]  # fmt: skip
    rows = range(len(PAPERS.tables["bicubic"].rows))
    (column,) = comparable_columns(PAPERS, "bicubic", collected(made[0]))
    assert [column.text(row) for row in rows] == ["33.67", *[""] * 8]
    (column,) = comparable_columns(PAPERS, "bicubic", collected(made[1]))
    assert not column.cells


def test_a_table_that_no_run_fills_says_so() -> None:
    for section in sections(PAPERS, "ds_net", []):
        assert [column.title for column in section.beside] == ["ours: none at these settings; see the runs below"]
        assert not section.apart


def test_a_plan_stands_in_the_row_of_its_budget() -> None:
    run = composed(PAPERS.ours["autoslim_mobilenet_v1"][0].run)
    names = list(run.recipes[0].points_within())
    assert names == ["budget 572M macs", "budget 325M macs", "budget 150M macs"]
    rows = [
        Row(point=name, kind="plan", channels=[8], macs=1e8, params=1, metrics={"val": {"top1_error": error}})
        for name, error in zip(names[:2], (27.5, 29.0), strict=True)
    ]
    (column,) = comparable_columns(PAPERS, "autoslim_mobilenet_v1", collected(measured(run, {}, rows=rows)))
    assert [column.text(row) for row in range(3)] == ["27.50", "29.00", ""]


@pytest.mark.parametrize(("name", "own"), BESIDE, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BESIDE)])
def test_every_column_beside_a_table_is_one_recipe_at_its_widths(name: str, own: Beside) -> None:
    settings, table = composed(own.run), PAPERS.tables[name]
    (recipe,) = settings.recipes
    if "width" in table.columns:
        widths = recipe.switches or recipe.evaluated(_Widths(settings.task_settings["widths"]))
        assert {round(table.width(row), 4) for row in own.rows or range(len(table.rows))} <= set(widths)


class _Widths:
    def __init__(self, widths: Any) -> None:
        self.widths = tuple(widths)


@pytest.mark.parametrize("run", RUNS, ids=[str(i) for i in range(len(RUNS))])
def test_every_ablation_of_the_papers_can_be_composed(run: tuple[str, ...]) -> None:
    assert composed(run).recipes


def test_the_table_of_a_run_is_found_wherever_its_data_lay() -> None:
    settings = composed(S_MOBILENET)
    ours = collected(measured(settings, FOUR))
    assert table_of_run(settings, ours) is ours[0].tables[0]
    assert table_of_run(settings, collected(measured(settings, FOUR, steps=1000))) is None


def test_csv_and_latex_hold_the_same_numbers() -> None:
    ours = collected(measured(composed(S_MOBILENET), FOUR))
    found = sections(PAPERS, "slimmable", ours)
    rows = list(csv.DictReader(io.StringIO(paper_csv(found))))
    first = [row for row in rows if row["table"] == "s_mobilenet_v1" and row["comparable"] == "yes"]
    assert {float(row["width"]): float(row["value"]) for row in first} == FOUR
    printed = [float(row["value"]) for row in rows if row["table"] == "s_mobilenet_v1" and row["whose"] == "printed"]
    assert printed == [28.5, 30.5, 35.2, 46.9]
    tex = paper_tex(PAPERS, "slimmable", found)
    assert "1.0 & 28.5 & 569M & 568,740,352 & 29.00" in tex
    assert tex.count("\\begin{") == tex.count("\\end{")
    page = paper_md(PAPERS, "slimmable", found, ours, Rates(ours, Path("none")), Path("results/published/slimmable"))
    assert "| 1.0 | 28.5 | 569M | 568,740,352 | 29.00 |" in page


def test_ours_are_in_the_panel_of_the_printed_only_where_they_are_comparable() -> None:
    settings = composed(S_MOBILENET)
    like = paper_figure(sections(PAPERS, "slimmable", collected(measured(settings, FOUR))))["svg"].decode()
    unlike = measured(settings, FOUR, dataset="CIFAR-10")
    apart = paper_figure(sections(PAPERS, "slimmable", collected(unlike)))["svg"].decode()
    assert "<!-- ours: 4 switches, 3,843,501 steps (scale paper) -->" in like and "axes_2" not in like
    assert "<!-- ours" not in apart and "axes_2" in apart and "Not comparable" in apart


@pytest.mark.parametrize(("table", "value"), [("coco_mask_rcnn_box", 71.0), ("coco_mask_rcnn_mask", 52.0)])
def test_records_of_other_data_stand_beside_what_they_found_alone(table: str, value: float) -> None:
    metrics = [MetricInfo(name=name, unit="%", better="higher") for name in ("mask_ap", "box_ap")]
    run = composed(PAPERS.ours["coco_mask_rcnn_mask"][0].run)
    rows = [Row(width=0.5, macs=10**9, params=1, metrics={"val": {"mask_ap": 52.0, "box_ap": 71.0}})]
    ours = collected(measured(run, {}, rows=rows, metrics=metrics, dataset="shapes"))
    columns = {column.title: column.cells for column in columns_apart(PAPERS, table, ours)}
    assert [cell.values for cells in columns.values() for cell in cells.values()] == [{0: value}] * 2
    assert columns_apart(PAPERS, "coco_faster_rcnn_box", ours) == []


# Cost


def test_the_work_of_a_run_is_counted_on_its_networks() -> None:
    settings = composed(S_MOBILENET)
    exact = sum(PAPERS.tables["s_mobilenet_v1"].row(row)["macs_exact"] for row in range(4))  # type: ignore[misc]
    assert training_macs(settings) == exact * 3843501 * 160 * FORWARD_AND_BACKWARD


def test_random_widths_count_as_expected_and_a_shared_training_once() -> None:
    calibration = composed(("task=classification", "ablation=calibration", "scale=tiny", "steps=10"))
    both = composed(
        (*("task=classification", "ablation=calibration", "scale=tiny", "steps=10"), "only=[individual,none]")
    )
    assert training_macs(calibration) == training_macs(both)
    alone = composed(("task=classification", "ablation=norm", "scale=tiny", "steps=10", "only=[universal]"))
    s = alone.task_settings
    build = {"multiplier": s["multiplier"], "divisor": s["divisor"], "size": 32}
    x = torch.zeros(1, 3, s["size"], s["size"])
    widths = [0.25 + 0.15 * i for i in range(6)]
    macs = [slim.cost(models.build(s["model"], width=w, **build), x).macs for w in widths]
    smallest, *between, largest = macs
    random = (smallest / 2 + sum(between) + largest / 2) / 5  # by the trapezoidal rule
    expected = (smallest + largest + 2 * random) * 10 * s["batch"] * FORWARD_AND_BACKWARD
    assert training_macs(alone) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("host", "count"),
    [
        ("AMD EPYC, 2 cores", 0),
        ("NVIDIA H100", 1),
        ("8 processes, NVIDIA A100", 8),
        ("2 processes, a CPU, 16 cores", 0),
    ],
)
def test_a_gpu_is_told_from_a_cpu_by_the_host(host: str, count: int) -> None:
    assert gpus(host) == count


def test_the_rate_of_a_gpu_is_measured_once_a_record_is_from_one() -> None:
    settings = composed(S_MOBILENET)
    training = {"kind": "individual"}
    on_cpu = measured(settings, {1.0: 29.0}, training=training)
    assert Rates(collected(on_cpu), Path("none"), gpu=5.0).gpu == 5.0
    assert Rates(collected(on_cpu), Path("none")).gpu == ASSUMED_GPU_RATE
    rates = Rates(collected(measured(settings, {1.0: 29.0}, training=training, host="2 processes, H100")), Path("none"))
    assert rates.gpu_is_measured
    assert rates.gpu == FORWARD_AND_BACKWARD * 3843501 * 160 * 10**9 / 100.0 / 2


def test_the_rate_of_a_core_is_that_of_whole_runs_where_no_step_was_timed() -> None:
    settings = composed(S_MOBILENET)
    rates = Rates(collected(measured(settings, {1.0: 29.0}, training={"kind": "individual"})), Path("none"))
    rate = rates.core("classification", "mobilenet_v1")
    assert rate is not None and rate.origin == "whole runs of mobilenet_v1"
    assert rate.value == FORWARD_AND_BACKWARD * 3843501 * 160 * 10**9 / 100.0
    assert rates.core("sr", "edsr") is None and rates.played("CartPole-v1", "ppo") is None


# What is committed


@pytest.fixture(scope="module")
def committed() -> list[Collected]:
    return list(collect(RESULTS))


@pytest.fixture(scope="module")
def rates(committed: list[Collected]) -> Rates:
    return Rates(committed, RESULTS / "perf")


@pytest.mark.parametrize("source", PAPERS.sources)
def test_the_committed_tables_of_a_paper_are_made_from_the_committed_records(
    source: str, committed: list[Collected], rates: Rates
) -> None:
    folder, found = RESULTS / "published" / source, sections(PAPERS, source, committed)
    again = "run python -m benchmarks.tables paper=all"
    assert (folder / "table.csv").read_text() == paper_csv(found), again
    assert (folder / "table.tex").read_text() == paper_tex(PAPERS, source, found), again
    assert (folder / "table.md").read_text() == paper_md(PAPERS, source, found, committed, rates, folder), again


def test_the_committed_page_of_the_ablations_is_made_from_yaml_and_records(
    committed: list[Collected], rates: Rates
) -> None:
    made = ablations_page(committed, rates, ROOT / "docs", RESULTS)
    assert (ROOT / "docs/ablations.md").read_text() == made, f"run {COMMAND}"


@pytest.mark.parametrize("page", ["docs/ablations.md", *(f"results/published/{s}/table.md" for s in PAPERS.sources)])
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    heads = {line.lstrip("# ") for line in text.splitlines() if line.startswith("#")}
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert link[1:] in heads if link.startswith("#") else ((ROOT / page).parent / link).exists(), link
