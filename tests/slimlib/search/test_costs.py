"""Costs of plans by arithmetic are those that are counted, to the digit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.layout import Group, Layout, Segment
from slimlib.models import build
from slimlib.search.costs import CostsByArithmetic
from tests.converting import made_slimmable
from tests.extent import at_night
from tests.networks import NETWORKS, Residual, image

COUNTABLE = [name for name in NETWORKS if name != "control_flow"]  # which cost refuses


@cache
def known(name: str) -> tuple[nn.Module, tuple[Any, ...], CostsByArithmetic]:
    torch.manual_seed(0)
    net, args = NETWORKS[name]()
    made_slimmable(name, net, args)
    return net, args, slim.plan_costs(net, args)


def random_plans(net: nn.Module, count: int, seed: int = 1) -> list[slim.WidthPlan]:
    generator = torch.Generator().manual_seed(seed)
    groups = net.slim.layout.groups
    return [
        slim.WidthPlan([int(torch.randint(1, g.units + 1, (), generator=generator)) for g in groups])
        for _ in range(count)
    ]


def counted(net: nn.Module, args: Any, plan: slim.WidthPlan) -> tuple[int, int]:
    cost = slim.cost(net, args, plan)
    return cost.macs, cost.params


def pairs(costs: CostsByArithmetic, plans: list[slim.WidthPlan]) -> list[tuple[int, int]]:
    found = costs(plans)
    return list(zip(found.macs.tolist(), found.params.tolist(), strict=True))


@pytest.mark.parametrize("name", COUNTABLE)
def test_random_plans_and_the_ends_cost_what_is_counted(name: str) -> None:
    net, args, costs = known(name)
    full = net.slim.layout.full
    plans = [slim.WidthPlan(full), slim.WidthPlan([1] * len(full)), *random_plans(net, 3)]
    assert pairs(costs, plans) == [counted(net, args, plan) for plan in plans]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.sampled_from(["concatenating", "glu", "shufflenet", "transformer", "wdsr"]))
def test_any_plan_costs_what_is_counted(data: st.DataObject, name: str) -> None:
    net, args, costs = known(name)
    plan = slim.WidthPlan([data.draw(st.integers(1, group.units)) for group in net.slim.layout.groups])
    assert pairs(costs, [plan]) == [counted(net, args, plan)]


@pytest.mark.parametrize("name", [at_night("mobilenet_v1"), "mobilenet_v2", at_night("resnet18"), "shufflenet_v1"])
def test_published_networks_cost_what_is_counted(name: str) -> None:
    net, x = build(name, classes=10, size=32), torch.zeros(1, 3, 32, 32)
    slim.convert(net, x, **net.channel_rule)
    plans = random_plans(net, 2)
    assert pairs(slim.plan_costs(net, x), plans) == [counted(net, x, plan) for plan in plans]


def test_a_batch_is_counted_as_a_whole() -> None:
    net, x = slim.convert(Residual(), image()), torch.zeros(3, 3, 20, 20)
    plans = random_plans(net, 2)
    assert pairs(slim.plan_costs(net, x), plans) == [counted(net, x, plan) for plan in plans]


def test_a_network_that_has_switches_alone_is_refused() -> None:
    net = slim.convert(Residual(), image(), widths=slim.Switches(0.5, 1.0), norm="switchable")
    with pytest.raises(ValueError, match="computes only at its switches.*norm='universal'"):
        slim.plan_costs(net, image())


def test_layers_written_by_hand_are_counted_alike() -> None:
    net = nn.Sequential(
        slim.SlimConv2d(3, 16, 3), slim.SlimConv2d(16, 8, 3), slim.SlimConv2d(8, 2, 1, slim_output=False)
    )
    x = torch.zeros(1, 3, 9, 9)
    costs = slim.plan_costs(slim.adopt(net), x)
    plans = random_plans(net, 3)
    assert pairs(costs, plans) == [counted(net, x, plan) for plan in plans]


class OfTokens(nn.Module):
    """Torch computes some products of its slices under another name than those of the whole."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.table, self.layer, self.head = nn.Embedding(20, 24), layer, nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:  # [N, T] -> [N, T, 5]
        found = self.layer(self.table(x))
        return self.head(found if isinstance(found, Tensor) else found[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(24, 24, num_layers=2, batch_first=True),
        lambda: nn.GRU(24, 12, bidirectional=True, batch_first=True),
        lambda: nn.TransformerEncoderLayer(24, 4, 32, batch_first=True),
    ],
    ids=["LSTM", "GRU", "transformer"],
)
def test_recurrent_layers_and_attention_are_counted_alike(make: Callable[[], nn.Module]) -> None:
    x = torch.randint(0, 20, (2, 6))
    net = slim.convert(OfTokens(make()), x)
    plans = random_plans(net, 3)
    assert pairs(slim.plan_costs(net, x), plans) == [counted(net, x, plan) for plan in plans]


def test_channel_numbers_in_a_tensor_do_as_well() -> None:
    net, _, costs = known("residual")
    plans = random_plans(net, 5)
    as_tensor = torch.tensor([plan.channels for plan in plans])
    assert torch.equal(costs(plans).macs, costs(as_tensor).macs)
    assert len(costs([]).macs) == 0


def test_counting_leaves_the_network_alone() -> None:
    net, x = slim.convert(Residual(), image()), torch.randn(1, 3, 16, 16)
    slim.set_width(net, 0.5)
    before = net.state_dict().keys(), net.training, net(x)
    slim.plan_costs(net, x)
    assert (net.state_dict().keys(), net.training) == before[:2]
    assert slim.current_width(net) == 0.5
    assert torch.equal(net(x), before[2])


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([8, 8, 8, 8], "has 4 numbers, and this network 5 groups"),
        ([8, 8, 17, 8, 8], "asks for 17 channels of 'blocks.1.a.0'; possible: 1 to 16"),
        ([0, 8, 8, 8, 8], "asks for 0 channels of 'stem.0'; possible: 1 to 16"),
    ],
)
def test_plans_of_another_network_are_refused(plan: list[int], message: str) -> None:
    _, _, costs = known("residual")
    with pytest.raises(ValueError, match=message):
        costs([slim.WidthPlan(plan)])


class AlongTokens(nn.Module):
    """Linear layers that count over the channels of a convolution: their cost is a product of three numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv1d(4, 16, 1), nn.Linear(6, 24), nn.Linear(24, 32)

    def forward(self, x: Tensor) -> Tensor:  # [N, 4, 6] -> [N]
        return self.c(self.b(self.a(x))).mean((1, 2))


def test_a_cost_that_is_no_product_of_two_axes_is_refused_by_name() -> None:
    net, x = AlongTokens(), torch.randn(2, 4, 6)
    a, b, c = ((Segment(group, units),) for group, units in enumerate((16, 24, 32)))
    axes = {
        f"{name}.{key}": {0: axis} for name, axis in zip("abc", (a, b, c), strict=True) for key in ("weight", "bias")
    }
    axes["c.weight"] = {0: c, 1: b}
    groups = tuple(Group(name, units, 8, (name,)) for name, units in (("a", 16), ("b", 24), ("c", 32)))
    slim.convert(net, x, layout=Layout(groups, axes))
    with pytest.raises(ValueError, match=r"product 3 of this SlimAlongTokens \(\w+mm.*sizes of two axes"):
        slim.plan_costs(net, x)


def test_a_network_that_looks_at_values_is_refused() -> None:
    net, args = NETWORKS["control_flow"]()
    slim.convert(net, args)
    with pytest.raises(ValueError, match="looks at values"):
        slim.plan_costs(net, args)
