"""`convert(divisors=, layout=)`: layers that round otherwise, and networks whose layout is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import slimlib as slim
from slimlib.core.layout import Group, Layout, Segment
from slimlib.core.width import round_channels
from slimlib.models import build
from tests.networks import MLP, Residual, conv_bn, image

EXAMPLE = torch.randn(2, 8)


def mlp() -> nn.Module:
    return MLP(sizes=(8, 96, 96, 4))


def units(net: nn.Module, width: float) -> tuple[int, ...]:
    slim.set_width(net, width)
    channels: tuple[int, ...] = net.slim.channels
    return channels


def test_a_layer_rounds_by_its_own_divisor() -> None:
    net = slim.convert(mlp(), EXAMPLE, divisors={"layers.1": 48})
    for width in (0.25, 0.4, 0.6, 0.8):
        assert units(net, width) == (round_channels(96, width, 8), round_channels(96, width, 48))


def test_a_narrow_layer_takes_half_the_divisor_it_was_given() -> None:
    net = slim.convert(mlp(), EXAMPLE, divisors={"layers.0": 64})
    assert units(net, 0.25) == (round_channels(96, 0.25, 64), 24) == (32, 24)


def test_the_published_rule_of_hidden_layers_is_a_larger_divisor() -> None:
    # make_divisible(c * w / 6) * 6 of the MobileNets: what is rounded is the sixth
    for full in (96, 144, 192, 384, 576, 960):
        for width in (n / 40 for n in range(14, 41)):
            assert round_channels(full, width, 48) == 6 * round_channels(full // 6, width, 8)


def test_layers_that_must_agree_share_one_divisor() -> None:
    net = Residual()
    group = next(g for g in slim.convert(Residual(), image()).slim.layout.groups if len(g.layers) > 1)
    first, second, *_ = group.layers
    slim.convert(net, image(), divisors={second: 2, first: 2})
    assert next(g.divisor for g in net.slim.layout.groups if first in g.layers) == 2
    with pytest.raises(ValueError, match=rf"must have the same channels differ: '{first}' \(4\) and '{second}' \(2\)"):
        slim.convert(Residual(), image(), divisors={first: 4, second: 2})


def test_divisors_count_the_outputs_of_the_layer_that_is_named() -> None:
    class Upscaling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.shuffle, self.last = nn.Conv2d(3, 64, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(16, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:  # [N, 3, H, W] -> [N, 3, 2H, 2W]
            return self.last(self.shuffle(self.up(x)))

    assert slim.convert(Upscaling(), image()).slim.layout.groups[0].divisor == 8  # of 16 units of 4 channels
    net = slim.convert(Upscaling(), image(), divisors={"up": 16})
    assert net.slim.layout.groups[0].divisor == 4
    slim.set_width(net, 0.25)
    assert net.up.weight.shape[0] == 16


@pytest.mark.parametrize(
    ("divisors", "message"),
    [
        (
            {"layers.9": 4},
            "divisors names 'layers.9', which is no layer that makes channels of its own; the nearest is",
        ),
        ({"layers.0": 0}, "divisor 0 of 'layers.0' must be a whole number of channels, at least 1"),
        ({"layers.0": 2.0}, "divisor 2.0 of 'layers.0' must be"),
        ({"layers.0": True}, "divisor True of 'layers.0' must be"),
    ],
)
def test_wrong_divisors_are_told_and_the_network_is_untouched(divisors: dict[str, Any], message: str) -> None:
    net = mlp()
    with pytest.raises(ValueError, match=message):
        slim.convert(net, EXAMPLE, divisors=divisors)
    assert type(net) is MLP


def test_a_norm_makes_no_channels() -> None:
    net = nn.Sequential(conv_bn(3, 16), nn.Conv2d(16, 2, 1))
    with pytest.raises(
        ValueError, match="'0.1', which is no layer that makes channels of its own; the nearest is '0.0'"
    ):
        slim.convert(net, image(), divisors={"0.1": 4})


def test_a_layout_that_is_known_is_taken_as_it_is() -> None:
    followed = slim.convert(mlp(), EXAMPLE)
    net = slim.convert(mlp(), None, layout=followed.slim.layout)
    assert units(net, 0.5) == units(followed, 0.5)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("layers.7.weight", 96, "the layout belongs to another network: this MLP has no 'layers.7.weight'"),
        ("layers.0.weight", 80, r"'layers.0.weight' is \[96, 8\] here, and has 80 in dimension 0 there"),
    ],
)
def test_a_layout_of_another_network_is_refused(name: str, size: int, message: str) -> None:
    layout = Layout((Group("layers.0", size, 8, ("layers.0",)),), {name: {0: (Segment(0, size),)}})
    with pytest.raises(ValueError, match=message):
        slim.convert(mlp(), EXAMPLE, layout=layout)


def test_a_layout_comes_with_its_own_divisors() -> None:
    net = build("shufflenet_v1", classes=10, size=32, multiplier=0.25)
    with pytest.raises(ValueError, match="leave out divisors and keep"):
        slim.convert(net, image(), **{**net.channel_rule, "keep": ["features.0.0"]})
