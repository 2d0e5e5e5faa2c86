"""What cannot be sorted is refused by name, before anything moves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import slimlib as slim
from slimlib.models import build
from slimlib.search.scores import ChannelScores
from tests.networks import MobileNet, Residual
from tests.slimlib.search.sorted import X, assert_same, lively, outputs, random_scores, state


class Weighted(nn.Module):
    """Multiplies each channel by a constant that its place decides."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:  # [N, 8] -> [N, 4]
        x = self.a(x).relu()
        x = x * torch.arange(x.shape[-1], device=x.device)
        return self.c(self.b(x).relu())


def test_a_group_whose_place_matters_is_refused_by_name_and_can_be_kept() -> None:
    net, x = Weighted(), torch.randn(4, 8)
    slim.convert(lively(net), x)
    before, expected = state(net), outputs(net, (x,))
    with pytest.raises(ValueError, match=r"units of 'a' cannot change places.*keep=\['a'\]"):
        slim.sort_channels(net, random_scores(net), example=x)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    slim.sort_channels(net, random_scores(net), example=x, keep=["a"])
    assert_same(outputs(net, (x,)), expected, 1e-5)
    assert torch.equal(net.a.weight, before["a.weight"])
    assert not torch.equal(net.b.weight, before["b.weight"])


def test_a_layout_by_hand_needs_an_example_and_a_shuffle_is_found_by_it() -> None:
    net = build("shufflenet_v1", classes=10, size=32, multiplier=0.5)
    slim.convert(lively(net), X, **net.channel_rule)
    before = state(net)
    with pytest.raises(ValueError, match="layout of this network was given by hand.*pass example="):
        slim.sort_channels(net, random_scores(net))
    with pytest.raises(ValueError, match="units of 'features.0.0' cannot change places"):
        slim.sort_channels(net, random_scores(net), example=X)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def test_a_layout_by_hand_that_can_be_sorted_is() -> None:
    dense = lively(MobileNet())
    layout = slim.convert(copy.deepcopy(dense), X).slim.layout
    by_hand = type(layout)(layout.groups, layout.axes, layout.norm_inputs, layout.kept, layout.idle)
    net = slim.convert(dense, X, layout=by_hand).eval()
    expected = outputs(net, (X,))
    slim.sort_channels(net, random_scores(net), example=X)
    assert_same(outputs(net, (X,)), expected, 1e-5)


def test_a_network_written_by_hand_is_refused() -> None:
    net = nn.Sequential(slim.SlimLinear(8, 16), nn.ReLU(), slim.SlimLinear(16, 4, slim_output=False))
    slim.set_width(slim.adopt(net), 0.5)
    with pytest.raises(ValueError, match="layer '0' was written by hand.*slimlib.convert"):
        slim.sort_channels(net, random_scores(net))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: ChannelScores(s.by, s.groups[1:], s.values[1:]), "of another network: 4 groups there, 5 here"),
        (lambda s: ChannelScores(s.by, ("other", *s.groups[1:]), s.values), "'other' with 16 units there, 'stem.0'"),
        (lambda s: ChannelScores(s.by, s.groups, (s.values[0][1:], *s.values[1:])), "'stem.0' with 15 units there"),
        (lambda s: ChannelScores(s.by, s.groups, (s.values[0] * torch.nan, *s.values[1:])), "not finite"),
    ],
)
def test_scores_of_another_network_are_refused(change, message: str) -> None:
    net = slim.convert(Residual(), X)
    with pytest.raises(ValueError, match=message):
        slim.sort_channels(net, change(random_scores(net)))


def test_a_layer_to_keep_must_exist_and_a_band_be_allowed() -> None:
    net = slim.convert(Residual(), X)
    with pytest.raises(ValueError, match="keep='stem' names no layer that makes channels; the nearest is 'stem.0'"):
        slim.sort_channels(net, random_scores(net), keep=["stem"])
    with pytest.raises(ValueError, match="width 2 is outside"):
        slim.sort_channels(net, random_scores(net), bands=[2.0])
