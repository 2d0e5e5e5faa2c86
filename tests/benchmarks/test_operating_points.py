"""A width, a plan and a rule that chooses for each input: from a network to record, tables, figures, page and back."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import slimlib as slim
from benchmarks.analysis.ablation import grids, short, table_csv, table_md, table_tex
from benchmarks.analysis.collecting import collect
from benchmarks.analysis.curves import curves_figure
from benchmarks.analysis.figures import figure
from benchmarks.analysis.findings import finding
from benchmarks.analysis.grid import show_grid
from benchmarks.analysis.results import Results
from benchmarks.records.record import Record, Row, read_record, write_record
from benchmarks.running.following import final_scores
from benchmarks.running.jobs import make_record, plan
from benchmarks.tables.__main__ import DONE, main
from tasks.points import OperatingPoint, PointResult, Spent
from tasks.training.scoring import measured
from tests.benchmarks.records.records_of import record
from tests.benchmarks.report.test_page import data_of, page_of
from tests.benchmarks.running.toy_run import toy_settings
from tests.tasks.training.toy import ToyTask

PLAN = slim.WidthPlan([12, 8])
NAMES = ["0.5", "search 60 %", "by loudness", "1"]


class ByLoudness:
    """Quiet inputs run at width 0.5, loud ones at full width."""

    widths = (0.5, 1.0)

    def __init__(self) -> None:
        self.counts = {0.5: 0, 1.0: 0}

    def __call__(self, net: nn.Module, x: Tensor) -> Tensor:
        outputs = [self._alone(net, one) for one in x.split(1)]
        return torch.cat(outputs)

    def _alone(self, net: nn.Module, x: Tensor) -> Tensor:
        width = 1.0 if x.std() > 1.0 else 0.5
        self.counts[width] += 1
        with slim.at_width(net, width):
            return net(x)

    def spent(self, net: nn.Module, example: Any) -> Spent:
        total = sum(self.counts.values())
        shares = {f"{width:g}": count / total for width, count in self.counts.items()}
        macs = sum(share * slim.cost(net, example, float(name)).macs for name, share in shares.items())
        return Spent(macs, slim.cost(net, example).params, 0.125, shares)


class Chosen(nn.Module):
    """A network that chooses by itself, as the rule does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for one in x:
            slim.set_width(self.net, 1.0 if one.std() > 1.0 else 0.5)
            outputs.append(self.net(one[None]))
        return torch.cat(outputs)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    task = ToyTask()
    made = slim.convert(task.build(), task.example(), widths=slim.WidthRange(0.5, 1.0), divisor=4)
    points = [OperatingPoint("", PLAN), OperatingPoint("", ByLoudness())]
    slim.calibrate(made, [torch.randn(8, 2, 8, 8)], [width for point in points for width in point.widths])
    return made


@pytest.fixture(scope="module")
def results(net: nn.Module) -> list[PointResult]:
    points = [OperatingPoint.of_width(0.5), OperatingPoint("search 60 %", PLAN)]
    points += [OperatingPoint("by loudness", ByLoudness()), OperatingPoint.of_width(1.0)]
    return measured(ToyTask(), net, points)


@pytest.fixture(scope="module")
def made(results: list[PointResult], tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A record of all three kinds, as a run writes it."""
    settings = toy_settings(tmp_path_factory.mktemp("results"))
    job = next(job for job in plan(settings) if job.recipe.name == "sandwich")
    record = make_record(settings, job, ToyTask(), results, ToyTask().baselines(), 1.0)
    return Record.model_validate_json(record.model_dump_json())  # as read from a file: lists for tuples


def test_a_plan_is_scored_as_the_dense_network_that_it_extracts_to(net: nn.Module, results: list[PointResult]) -> None:
    (dense,) = ToyTask().evaluate(slim.extract(net, PLAN).eval())
    found = results[1]
    assert found.metrics["noise"] == pytest.approx(dense["noise"], rel=1e-5)
    assert (found.kind, found.channels, found.width) == ("plan", (12, 8), None)
    assert (found.macs, found.params) == (slim.cost(net, ToyTask().example(), PLAN).macs, found.params)


def test_a_rule_is_scored_and_paid_by_what_it_chose(net: nn.Module, results: list[PointResult]) -> None:
    found = results[2]
    narrow, full = (slim.cost(net, ToyTask().example(), width).macs for width in (0.5, 1.0))
    assert 0 < found.shares["0.5"] < 1 and found.shares["0.5"] + found.shares["1"] == 1
    assert found.macs == found.shares["0.5"] * narrow + found.shares["1"] * full
    (alone,) = ToyTask().evaluate(Chosen(net))
    assert found.metrics == alone


def test_a_record_is_read_back_as_it_was(made: Record, results: list[PointResult], tmp_path: Path) -> None:
    again = read_record(write_record(made, tmp_path))
    assert again == made
    for row, result in zip(again.rows, results, strict=True):
        assert (row.point, row.kind, row.width, row.macs, row.params) == (
            *(result.point, result.kind, result.width, result.macs, result.params),
        )
        assert (row.milliseconds, row.shares) == (result.milliseconds, result.shares)
        assert row.metrics == result.metrics
    assert again.rows[1].channels == [12, 8]


def by_point(text: str) -> Mapping[str, Mapping[str, str]]:
    rows = csv.DictReader(io.StringIO(text))
    return {row["point"]: row for row in rows if (row["dataset"], row["metric"]) == ("noise", "error")}


def test_the_csv_has_every_value(made: Record, results: list[PointResult]) -> None:
    rows = by_point(table_csv(Results([made])))
    assert list(rows) == ["", *NAMES]  # baselines, then by cost
    for result in results:
        row = rows[result.point]
        assert (float(row["macs"]), int(row["params"]), row["kind"]) == (result.macs, result.params, result.kind)
        assert float(row["mean"]) == float(row["values"]) == result.metrics["noise"]["error"]
        assert row["width"] == ("" if result.width is None else str(result.width))
        assert row["channels"] == ("12 8" if result.kind == "plan" else "")
        assert row["milliseconds"] == ("" if result.milliseconds is None else str(result.milliseconds))
        assert row["shares"] == ";".join(f"{name}:{share}" for name, share in result.shares.items())


def test_markdown_and_latex_have_a_column_for_each_by_cost(made: Record, results: list[PointResult]) -> None:
    tables = Results([made])
    grid = grids(tables)[0]
    assert grid.head == ["operating point", *NAMES]
    cells = {what: dict(zip(NAMES, row, strict=True)) for what, *row in grid.rows}
    for result in results:
        assert cells["multiply-adds"][result.point] == short(result.macs)
        assert cells["sandwich"][result.point] == f"{result.metrics['noise']['error']:.4f}"
        share = f"{100 * result.shares['0.5']:.0f} %" if result.shares else ""
        assert cells["inputs at width 0.5"][result.point] == share
    assert cells["milliseconds"] == dict.fromkeys(NAMES, "") | {"by loudness": "0.125"}
    markdown, latex = table_md(tables, finding(tables)), table_tex(tables, finding(tables))
    for cell in (cell for row in grid.rows for cell in row):
        assert cell in markdown and cell.replace("%", "\\%") in latex
    assert "search 60 \\%" in latex and "costs are means over the inputs" in markdown


def test_figures_name_what_has_no_width(made: Record) -> None:
    drawn = figure(Results([made]), "Finding")["svg"].decode()
    assert all(f"<!-- {name} -->" in drawn for name in ("search 60 %", "by loudness"))
    learned = {"noise": {"error": [[1.0, 2.0], [2.0, 1.0]]}}
    rows = [row.model_copy(update={"curve": learned}) for row in made.rows]
    drawn = curves_figure(Results([made.model_copy(update={"rows": rows})]), "Finding")["svg"].decode()
    assert all(f"<!-- {name} -->" in drawn for name in ("search 60 %", "by loudness"))


def test_the_page_has_every_value(made: Record, results: list[PointResult], tmp_path: Path) -> None:
    write_record(made, tmp_path / "toy/sandwich/tiny/records")
    table = data_of(page_of(tmp_path))[0]["table"]
    assert [point["label"] for point in table["points"]] == ["width 0.5", "search 60 %", "by loudness", "width 1"]
    assert [point["width"] for point in table["points"]] == [0.5, None, None, 1.0]
    by_name = {result.point: result for result in results}
    for name, cost, middle in zip(NAMES, table["costs"][0], table["views"][0]["series"][0][0], strict=True):
        assert cost["macs"] == by_name[name].macs
        assert cost.get("shares", {}) == by_name[name].shares
        assert cost.get("milliseconds") == by_name[name].milliseconds
        assert middle == pytest.approx(by_name[name].metrics["noise"]["error"], rel=1e-5)


@pytest.mark.usefixtures("one_paper")
def test_everything_is_written_from_the_record_alone(made: Record, tmp_path: Path) -> None:
    folder = tmp_path / "toy/sandwich/tiny"
    write_record(made, folder / "records")
    assert main([f"results={tmp_path}", "paper=bicubic"]) == DONE
    assert main([f"results={tmp_path}"]) == DONE
    (collected,) = collect(tmp_path)
    assert (folder / "table.csv").read_text() == table_csv(collected.tables[0])


def test_trackers_hear_of_each_by_its_name(results: list[PointResult]) -> None:
    labels = ["width 0.5", "search 60 %", "by loudness", "width 1"]
    assert {name for name in final_scores(results) if name.startswith("error/noise")} == {
        f"error/noise/{label}" for label in labels
    }


def plans(seed: int, channels: list[int], macs: float) -> Record:
    row = {"point": "greedy", "kind": "plan", "channels": channels, "macs": macs, "params": 10}
    return record("sandwich", seed, {}, rows=[Row(**row, metrics={"photos": {"psnr": 30.0}})])


def test_a_plan_that_every_seed_finds_anew_costs_their_mean() -> None:
    results = Results([plans(0, [8, 16], 100.0), plans(1, [16, 8], 200.0)])
    assert results.cost("sandwich", "greedy") == Spent(150.0, 10)
    assert (
        next(
            csv.DictReader(io.StringIO(table_csv(results).split("\n", 2)[0] + "\n" + table_csv(results).split("\n")[2]))
        )["channels"]
        == "8 16;16 8"
    )


def test_recipes_without_a_common_point_are_told_each_by_itself() -> None:
    results = Results([plans(0, [8, 16], 100.0), record("random", 0, {1.0: 31.0})])
    assert finding(results) == "Greedy: sandwich 30.00 dB. Width 1: random 31.00 dB. One seed only"


def test_older_records_are_widths() -> None:
    older = {"width": 0.25, "macs": 5, "params": 3, "metrics": {}}
    assert Row(**older) == Row(point="0.25", kind="width", **older)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"point": "0.3"}, "the name of a plan is a line with a letter in it, unlike '0.3'"),
        ({"channels": None}, "an operating point of kind plan has channels, and no width"),
        ({"width": 0.5}, "an operating point of kind plan has channels, and no width"),
        ({"shares": {"1": 1.0}}, "an operating point of kind plan has no shares: all inputs run alike"),
        ({"macs": -1.0}, "greater than or equal to 0"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(change: dict[str, Any], says: str) -> None:
    row = plans(0, [8, 16], 100.0).rows[0].model_dump()
    with pytest.raises(ValueError, match=says):
        Row(**row | change)


def test_a_point_stands_once_in_a_record() -> None:
    row = plans(0, [8, 16], 100.0).rows[0].model_dump()
    with pytest.raises(ValueError, match="an operating point occurs twice"):
        record("sandwich", 0, {}, rows=[row, row])


ODD = "a_b & 50% {x} $5 ~ ^ \\ |[bold]y"


def test_a_name_of_odd_characters_is_the_same_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    row = plans(0, [8, 16], 100.0).rows[0].model_copy(update={"point": ODD})
    results = Results([plans(0, [8, 16], 100.0).model_copy(update={"rows": [row]})])
    assert next(csv.reader(io.StringIO(table_csv(results).splitlines()[-1])))[1] == ODD
    assert ODD.replace("|", "\\|") in table_md(results, "Finding")
    latex = table_tex(results, "Finding")
    assert r"a\_b \& 50\% \{x\} \$5 \textasciitilde{} \textasciicircum{} \textbackslash{} |[bold]y" in latex
    show_grid(grids(results)[0], Console(width=200))
    assert ODD in capsys.readouterr().out
    assert f"<!-- {ODD.replace('&', '&amp;')} -->" in figure(results, "Finding")["svg"].decode()
