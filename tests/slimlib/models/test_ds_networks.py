"""The networks of DS-Net: published channels and costs, and a gate at the published place."""

from __future__ import annotations

import pytest
import torch

import slimlib as slim
from slimlib.models import build, ds_plans
from tests.extent import one_by_day
from tests.published import tables

SMALL = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_14_switches_cost_what_was_published() -> None:
    """Published counts have the pooling layers in them, too."""
    net = build("ds_mobilenet")
    net = slim.convert(net, SMALL[:1], **net.channel_rule).to("meta")
    plans = ds_plans(net)
    rows = tables()["ds_net_supernet"]["rows"]
    assert len(plans) == len(rows) == 14
    for row, plan in zip(rows, plans, strict=True):
        macs = slim.cost(net, torch.empty(1, 3, 224, 224, device="meta"), plan).macs
        assert macs == pytest.approx(1e6 * float(row["macs_published"].removesuffix("M")), rel=0.01)
    assert plans[0].channels == (16, 32, *[48] * 2, *[96] * 2, *[224] * 6, *[736] * 2)
    assert plans[3].channels[6:] == (*[320] * 6, *[832] * 2)


@pytest.mark.parametrize("name", one_by_day(["ds_mobilenet", "ds_resnet50"]))
def test_a_gate_at_the_published_place(name: str) -> None:
    torch.manual_seed(0)
    net = build(name, classes=10, size=32, multiplier=0.125)
    before, widths = net.gate_before, (0.5, 1.0)
    net = slim.convert(net, SMALL, **net.channel_rule)
    slim.calibrate(net, [SMALL], slim.gated_plans(net, before, widths))
    gated = slim.Gated.at(net.eval(), before, widths, SMALL).eval()
    with torch.no_grad():
        answer = gated.answer(SMALL)
        for sample, width in enumerate(answer.widths):
            with slim.at_width(net, gated.tail_widths[widths.index(width)]):
                alone = net(SMALL[sample : sample + 1])
            torch.testing.assert_close(answer.output[sample : sample + 1], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", one_by_day(["ds_mobilenet", "ds_resnet50"]))
def test_an_individual_network_has_the_channels_of_its_width(name: str) -> None:
    net = build(name, classes=10, size=32, multiplier=0.125)
    net = slim.convert(net, SMALL, **net.channel_rule)
    slim.calibrate(net, [SMALL], [0.5])
    alone = build(name, classes=10, size=32, multiplier=0.125, width=0.5)
    extracted = slim.extract(net, 0.5).state_dict()
    assert {key: value.shape for key, value in alone.state_dict().items()} == {
        key: value.shape for key, value in extracted.items()
    }


def test_plans_are_of_the_published_network_alone() -> None:
    net = build("ds_mobilenet", size=32, multiplier=0.25)
    net = slim.convert(net, SMALL[:1], **net.channel_rule)
    with pytest.raises(ValueError, match="build it with multiplier=1.0"):
        ds_plans(net)
