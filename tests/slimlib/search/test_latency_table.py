"""Tables of layer times: what they hold, what they predict from it, and where they do not apply."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import slimlib as slim
from slimlib.search.costs import Axes
from slimlib.search.latency_table import LatencyTable, LayerTimes
from slimlib.search.timing import grid, places_of
from tests.networks import Concatenating, Residual
from tests.slimlib.search.searched import CALIBRATION, IMAGES, chain, four_groups, loss

X = IMAGES[:1]


def table_of(net: nn.Module, x: Any = X, **more: Any) -> LatencyTable:
    return slim.latency_table(net, x, **{"levels": 2, "rounds": 1, "check": 0, **more})


def test_it_measures_every_layer_and_leaves_the_network_alone() -> None:
    net = chain()
    slim.set_width(net, 0.5)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    table = table_of(net, check=3)
    measured = {layer.name for layer in table.layers}
    assert {name for name, module in net.named_modules() if not module._modules} <= measured
    assert len(table.errors) == 3
    assert "random plans" in str(table)
    assert net.training and slim.current_width(net) == 0.5
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_each_layer_meets_all_pairs_of_the_levels_of_its_channels() -> None:
    net = slim.convert(Residual(), IMAGES[:2])
    layout, axes = net.slim.layout, Axes(net.slim.layout)
    places = places_of(net, net.slim, axes, X)
    plans = grid(layout, places, axes, 3)
    sizes = axes.sizes(torch.tensor(plans)).tolist()
    for place in places:
        if len(place.axes) == 2:
            levels = [{row[axis] for row in sizes} for axis in place.axes]
            seen = {tuple(row[axis] for axis in place.axes) for row in sizes}
            assert seen >= set(itertools.product(*levels))


def test_where_too_many_groups_meet_every_level_is_still_there() -> None:
    net = slim.convert(Concatenating(growth=(16,) * 6), IMAGES[:2])
    axes = Axes(net.slim.layout)
    plans = grid(net.slim.layout, places_of(net, net.slim, axes, X), axes, 2)
    assert all(len(set(column)) == 2 for column in zip(*plans, strict=True))


def test_times_that_are_products_of_channels_are_predicted_exactly() -> None:
    """A table with made-up times, of one layer that depends on two groups: t = 2 + 0.5 a + 0.25 b + 0.01 a b."""
    net = four_groups()
    axes = Axes(net.slim.layout)
    middle = net.slim.layout.axes["layers.1.weight"]
    pair = (axes.number[middle[0]], axes.number[middle[1]])
    sizes = tuple(itertools.product((8, 16, 32), (8, 24, 32)))
    times = tuple(2 + 0.5 * a + 0.25 * b + 0.01 * a * b for a, b in sizes)
    groups = tuple((group.name, group.units) for group in net.slim.layout.groups)
    table = LatencyTable(
        "none", 1, "float32", ((1, 8),), groups, (LayerTimes("layers.1", pair, sizes, times),), rest=1.0
    )
    plans = [slim.WidthPlan([12, 20, 8, 8]), slim.WidthPlan([32, 32, 32, 32])]
    expected = [3 + 0.5 * b + 0.25 * a + 0.01 * a * b for a, b in ((12, 20), (32, 32))]
    torch.testing.assert_close(table.milliseconds(net, plans), torch.tensor(expected, dtype=torch.double))


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    net = four_groups()
    table = table_of(net, torch.zeros(1, 8), check=2)
    table.save(tmp_path / "table.json")
    again = LatencyTable.load(tmp_path / "table.json")
    assert again == table
    assert again.digest == table.digest
    plans = [slim.WidthPlan([8, 16, 24, 32])]
    assert torch.equal(again.milliseconds(net, plans), table.milliseconds(net, plans))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "layers": 3}'])
def test_what_is_no_table_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"table.json is not a readable table of times"):
        LatencyTable.load(path)


DAMAGED: dict[str, tuple[Callable[[LatencyTable, LayerTimes], LatencyTable], str]] = {
    "a time too few": (
        lambda table, layer: replace(table, layers=(replace(layer, milliseconds=layer.milliseconds[1:]),)),
        r"is not a readable table of times: 'layers\.0' has other numbers of sizes, times and axes",
    ),
    "an axis too many": (
        lambda table, layer: replace(table, layers=(replace(layer, axes=(*layer.axes, 0)),)),
        r"'layers\.0' has other numbers of sizes, times and axes",
    ),
    "not finite": (lambda table, _: replace(table, rest=float("inf")), "readable table of times: a time is not finite"),
    "no number": (lambda table, _: replace(table, rest="little"), "readable table of times: must be real number"),
    "other layers": (
        lambda table, layer: replace(table, layers=(replace(layer, axes=tuple(axis + 90 for axis in layer.axes)),)),
        "of another network: of layers that this one does not have",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_table_is_refused(case: str, tmp_path: Path) -> None:
    change, message = DAMAGED[case]
    net = four_groups()
    table = table_of(net, torch.zeros(1, 8))
    change(table, next(layer for layer in table.layers if layer.name == "layers.0")).save(tmp_path / "table.json")
    with pytest.raises(ValueError, match=message):
        LatencyTable.load(tmp_path / "table.json").milliseconds(net, [slim.WidthPlan([8, 16, 24, 32])])


def test_a_search_within_milliseconds(tmp_path: Path) -> None:
    net = chain()
    table = table_of(net)
    made_up = replace(table, layers=tuple(_growing(layer) for layer in table.layers), rest=0.0)
    full = float(made_up.milliseconds(net, [slim.WidthPlan(net.slim.layout.full)])[0])
    found = slim.search(
        net, loss, [f"{0.6 * full} ms"], example=X, calibrate=CALIBRATION, latency=made_up, path=tmp_path / "plans.json"
    )[0]
    assert found.budget.unit == "ms"
    assert found.cost == pytest.approx(float(made_up.milliseconds(net, [found.plan])[0]))
    assert found.cost <= 0.6 * full


def test_a_table_is_of_no_use_to_other_budgets() -> None:
    net = chain()
    with pytest.raises(ValueError, match=r"latency= is for budgets in milliseconds, and 0.9 of all macs is none.*'ms'"):
        slim.search(net, loss, [0.9], example=X, calibrate=CALIBRATION, latency=table_of(net))


def _growing(layer: LayerTimes) -> LayerTimes:
    """Made-up times that grow with the channels, so that no measurement decides."""
    return replace(layer, milliseconds=tuple(1e-4 * sum(sizes) for sizes in layer.sizes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "another machine"}, "of another device: another machine there"),
        ({"threads": 77}, r"of another number of threads: 77 there, \d+ here; times differ, so measure here"),
        ({"dtype": "bfloat16"}, "of another dtype: bfloat16 there, float32 here"),
        ({"shapes": ((8, 3, 12, 12),)}, r"of another input: \(\(8, 3, 12, 12\),\) there"),
        (
            {"groups": (("a", 3),)},
            "table of times is of another network: 'a' with 3 channels there, 'features.0.0'",
        ),
    ],
)
def test_a_table_of_elsewhere_is_refused(change: dict[str, Any], message: str) -> None:
    net = chain()
    table = replace(table_of(net), **change)
    with pytest.raises(ValueError, match=message):
        slim.search(net, loss, ["1 ms"], example=X, calibrate=CALIBRATION, latency=table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 1}, "levels=1 must be a whole number, at least 2"),
        ({"rounds": 0}, "rounds=0 must be a whole number, at least 1"),
        ({"check": -1}, "check=-1 must be a whole number, at least 0"),
        ({"x": "no tensor"}, "must be an input tensor"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table_of(chain(), **arguments)


def test_a_compiled_network_is_refused() -> None:
    """Hooks would cut it at every layer, and what was measured would be of another network than the one that runs."""
    in_place = chain()
    in_place.compile()
    for net in (torch.compile(chain()), in_place, nn.Sequential(torch.compile(chain()))):
        with pytest.raises(ValueError, match="compiled network run together.*measure the network as it was before"):
            slim.latency_table(net, X)
