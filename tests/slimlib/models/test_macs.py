"""Multiply-adds of the converted networks are those of the published ones, to the digit, in every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import slimlib as slim
from slimlib.models import build, from_channels, width_plan
from tests.published import paper_folder, tables

TABLES = tables()
UNIFORM = {
    "s_mobilenet_v1": "mobilenet_v1",
    "s_mobilenet_v2": "mobilenet_v2",
    "s_resnet50": "resnet50",
    "s_shufflenet": "shufflenet_v1",
    "us_mobilenet_v1": "mobilenet_v1",
    "us_mobilenet_v2": "mobilenet_v2",
}
PLANNED = {
    "autoslim_mobilenet_v1": "mobilenet_v1",
    "autoslim_mobilenet_v2": "mobilenet_v2",
    "autoslim_mnasnet": "mnasnet",
    "autoslim_resnet": "resnet50",
}
IMAGE = torch.empty(1, 3, 224, 224, device="meta")


@pytest.fixture(scope="module")
def converted() -> Callable[[str, tuple[int, ...] | None], nn.Module]:
    """A network at full width, or with the channels given, converted once."""

    @cache
    def made(name: str, channels: tuple[int, ...] | None) -> nn.Module:
        net = from_channels(name, channels) if channels else build(name)
        return slim.convert(net, torch.randn(2, 3, 32, 32), norm="shared", **net.channel_rule).to("meta")

    return made


def rows(networks: dict[str, str]) -> list[Any]:
    """Every row of the tables; of long ones the ends and every fifth, the others at night."""
    return [
        pytest.param(
            table,
            row,
            id=f"{table}-{row['macs_published']}",
            marks=() if len(all_rows) < 10 or place % 5 == 0 or row is all_rows[-1] else pytest.mark.nightly,
        )
        for table in networks
        for all_rows in [TABLES[table]["rows"]]
        for place, row in enumerate(all_rows)
    ]


@pytest.mark.parametrize(("table", "row"), rows(UNIFORM))
def test_published_widths_cost_what_was_counted(table: str, row: dict[str, Any], converted: Any) -> None:
    largest = max(other["width"] for other in TABLES[table]["rows"])
    net = converted(UNIFORM[table], None)
    assert slim.cost(net, IMAGE, row["width"] / largest).macs == row["macs_exact"]


@pytest.mark.parametrize(("table", "row"), rows(PLANNED))
def test_published_plans_cost_what_was_counted(table: str, row: dict[str, Any], converted: Any) -> None:
    plans = [other["plan"] for other in TABLES[table]["rows"]]
    net = converted(PLANNED[table], tuple(map(max, *plans)))
    plan = width_plan(net, row["plan"])
    assert slim.cost(net, IMAGE, plan).macs == row["macs_exact"]
    shapes = {name: tensor.shape for name, tensor in slim.extract(net, plan).state_dict().items()}
    with torch.device("meta"):
        individual = from_channels(PLANNED[table], row["plan"])
    assert shapes == {name: tensor.shape for name, tensor in individual.state_dict().items()}


def test_every_number_that_can_be_counted_is_checked() -> None:
    counted = {name for name, table in TABLES.items() if "macs_exact" in table["columns"]}
    assert counted == {*UNIFORM, *PLANNED}


def test_our_tables_are_the_published_ones() -> None:
    original = published_lists("paper_tables.yaml")
    for table in original:
        own = TABLES[table["id"]]
        assert [{key: cell for key, cell in row.items() if cell is not None} for row in own["rows"]] == table["rows"]
        described = ("table", "model", "dataset", "metric", "unit")
        assert [own.get(key) for key in described] == [table.get(key) for key in described]


def test_our_tables_hold_every_number_that_was_found_later() -> None:
    """The lists have a column for each width, or for each way of training; our tables have a row for each number."""
    original = published_lists("more_tables.yaml")
    numbers = sorted(number for table in original for row in table["rows"] for number in printed(table["id"], row))
    known = {table["id"] for table in published_lists("paper_tables.yaml")}
    later = {name: table for name, table in TABLES.items() if table["source"] == "slimmable" and name not in known}
    ours = []
    for name, table in later.items():
        for row in table["rows"]:
            labels = (row.get(key, "") for key in ("trained", "affine"))
            network = row.get("model", "ShuffleNet" if name == "individual_shufflenet" else "")
            listed = "individual_top1" if name == "individual_shufflenet" else name
            ours.append((listed, network, "".join(labels), row["width"], row[table["metric"]]))
    assert sorted(ours) == numbers


def printed(name: str, row: dict[Any, Any]) -> Iterator[tuple[str, str, str, float, float]]:
    """The numbers of one row of a list: table, network, how it was trained, width, number."""
    network, affine = row.get("model", ""), row.get("affine", "")
    for key, cell in row.items():
        if isinstance(key, float):
            yield name, network, affine, key, cell
        elif key in ("individual", "slimmable"):
            yield name, network, key, row["width"], cell
        elif key == "top1_error":
            yield name, network, affine, row["width"], cell


def published_lists(name: str) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = yaml.safe_load((paper_folder() / name).read_text())["tables"]
    return tables
