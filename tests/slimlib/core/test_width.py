"""Rounding, ranges, switches and plans; what set_width accepts and refuses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import slimlib as slim
from slimlib.core.width import round_channels
from tests.networks import MLP, MobileNet, Residual, image

widths = st.floats(0.01, 1.0)


@given(full=st.integers(1, 2048), width=widths, divisor=st.sampled_from([1, 2, 4, 8, 16]))
def test_rounding_keeps_its_promises(full, width, divisor):
    channels = round_channels(full, width, divisor)
    assert 1 <= channels <= full
    assert channels >= 0.9 * width * full or channels == full
    fitting = divisor
    while fitting > 1 and full < 2 * fitting:
        fitting //= 2
    assert channels % fitting == 0 or channels == full
    assert round_channels(full, 1.0, divisor) == full


@given(full=st.integers(1, 512), a=widths, b=widths)
def test_rounding_is_monotone(full, a, b):
    narrow, wide = sorted((a, b))
    assert round_channels(full, narrow) <= round_channels(full, wide)


@pytest.mark.parametrize(
    ("full", "width", "divisor", "expected"),
    [
        (32, 0.25, 8, 8),
        (32, 0.35, 8, 16),
        (24, 0.35, 8, 8),
        (64, 0.35, 8, 24),
        (3, 0.5, 8, 2),
        (12, 0.5, 8, 8),
        (100, 1.0, 8, 100),
    ],
)
def test_rounding_of_known_numbers(full, width, divisor, expected):
    # 32 * 0.35 = 11.2 -> 8 would lose over 10 %, so 16; 12 channels have fewer than two eights, so fours: 6 -> 8
    assert round_channels(full, width, divisor) == expected


@pytest.mark.parametrize("width", [0.0, -0.5, 1.01, math.nan, math.inf, 0.24])
def test_width_outside_the_range_is_refused_with_the_range(width):
    net = slim.convert(MLP(), torch.randn(2, 8), widths=slim.WidthRange(0.25, 1.0))
    with pytest.raises(ValueError, match="allowed: 0.25 to 1"):
        slim.set_width(net, width)
    assert slim.current_width(net) == 1.0


def test_switch_that_does_not_exist_is_refused_with_the_switches():
    net = slim.convert(MLP(), torch.randn(2, 8), widths=slim.Switches(0.5, 1.0))
    with pytest.raises(ValueError, match=r"width 0.75 .* allowed: 0.5, 1"):
        slim.set_width(net, 0.75)


@pytest.mark.parametrize("width", ["half", None, True])
def test_width_of_a_wrong_type_is_refused(width):
    net = slim.convert(MLP(), torch.randn(2, 8), widths=slim.WidthRange(0.25, 0.9))
    with pytest.raises(ValueError, match="neither a number"):
        slim.set_width(net, width)


@pytest.mark.parametrize("bounds", [(0.5, 0.25), (0.0, 1.0), (0.5, 1.5), (math.nan, 1.0), ("0.25", 1.0)])
def test_impossible_ranges_are_refused(bounds):
    with pytest.raises(ValueError, match="0 < smallest <= largest <= 1"):
        slim.WidthRange(*bounds)


@pytest.mark.parametrize("switches", [(), (0.5, 0.5), (0.5, 2.0), (0.0,)])
def test_impossible_switches_are_refused(switches):
    with pytest.raises(ValueError, match="each in"):
        slim.Switches(*switches)


def test_plan_sets_each_group_by_itself():
    net = slim.convert(MLP(sizes=(8, 64, 48, 4)), torch.randn(2, 8))
    slim.set_width(net, slim.WidthPlan((40, 8)))
    shapes = [tuple(layer.weight.shape) for layer in net.modules() if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(40, 8), (8, 40), (4, 8)]


def test_numbers_of_arrays_are_numbers():
    net = slim.convert(MLP(sizes=(8, 64, 48, 4)), torch.randn(2, 8), widths=slim.WidthRange(np.float32(0.25)))
    assert all(type(width) is float for width in slim.Sandwich(net.slim.widths).draw())
    assert slim.Switches(np.float32(0.5), np.int64(1)) == slim.Switches(0.5, 1.0)
    slim.set_width(net, np.float32(0.5))
    assert type(slim.current_width(net)) is float
    assert net.slim.channels == (32, 24)
    for channels in (np.array([16, 8]), torch.tensor([16, 8])):
        assert slim.WidthPlan(channels) == slim.WidthPlan([16, 8])


@pytest.mark.parametrize("channels", [5, [16.0, 8.0], [16.5, 8], ["16", 8], np.array([16.0])])
def test_channels_that_are_no_whole_numbers_are_refused(channels):
    with pytest.raises(ValueError, match="needs a whole number of channels for each group of layers"):
        slim.WidthPlan(channels)


@pytest.mark.parametrize(
    ("plan", "message"), [((8,), "1 numbers"), ((0, 8), "asks for 0"), ((8, 49), "possible: 1 to 48")]
)
def test_plan_that_does_not_fit_is_refused(plan, message):
    net = slim.convert(MLP(sizes=(8, 64, 48, 4)), torch.randn(2, 8))
    with pytest.raises(ValueError, match=message):
        slim.set_width(net, slim.WidthPlan(plan))


def test_random_plans_do_not_fill_the_memory():
    net = slim.convert(MLP(sizes=(8, 64, 48, 4)), torch.randn(2, 8))
    for a in range(1, 65):
        for b in range(1, 49, 3):
            slim.set_width(net, slim.WidthPlan((a, b)))
            slim.set_width(net, 0.1 + (64 * b + a) / 5000)
            assert (
                net.layers[1].weight.shape
                == net.layers[1]._parameters["weight"][: net.slim.channels[1], : net.slim.channels[0]].shape
            )
    assert len(net.slim._shared) <= 512


def test_at_width_comes_back_also_after_an_error():
    net = slim.convert(MLP(), torch.randn(2, 8))
    slim.set_width(net, 0.75)
    with pytest.raises(KeyError), slim.at_width(net, 0.25):
        assert slim.current_width(net) == 0.25
        raise KeyError
    assert slim.current_width(net) == 0.75


def test_width_is_set_through_wrappers_and_on_every_part():
    a, b = slim.convert(Residual(), image()), slim.convert(MobileNet(), image())
    whole = torch.nn.ModuleDict({"a": a, "b": torch.nn.Sequential(b)})
    slim.set_width(whole, 0.5)
    assert slim.current_width(a) == slim.current_width(b) == 0.5
    slim.set_width(b, 0.25)
    with slim.at_width(whole, 0.75):
        assert slim.current_width(a) == slim.current_width(b) == 0.75
    assert (slim.current_width(a), slim.current_width(b)) == (0.5, 0.25)


def test_plain_network_has_no_width():
    with pytest.raises(ValueError, match=r"slimlib.convert\(net, example\)"):
        slim.set_width(MLP(), 0.5)


def test_two_networks_do_not_share_state():
    a, b = slim.convert(MLP(), torch.randn(2, 8)), slim.convert(MLP(), torch.randn(2, 8))
    slim.set_width(a, 0.25)
    assert slim.current_width(b) == 1.0
    assert next(m for m in b.modules() if isinstance(m, torch.nn.Linear)).weight.shape[0] == 64


def test_report_names_groups_and_reasons():
    net = slim.convert(MLP(), torch.randn(2, 8))
    report = str(net.slim)
    assert "slim in 2 groups" in report
    assert "output" in report
