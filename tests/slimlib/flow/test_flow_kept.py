"""Which layers stay full, and the reason that is reported."""

import math

import pytest
import torch
from torch import nn

from slimlib.flow import follow
from tests.networks import NETWORKS, Residual, image
from tests.networks_with_quirks import Wrapped
from tests.slimlib.flow.judging import between_convolutions, conv, share_left


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("mlp", "layers.2", "reaches the network's output"),
        ("fourier", "b", "mixes all channels: _fft_r2c in the network's own forward"),
        ("padded_shortcut", "fc", "reaches the network's output"),
        ("hard_view", "b", "view in the network's own forward"),
        ("mixer", "token_a", "acts along another axis than the channels: linear in 'token_a' (Linear)"),
        ("glu", "a", "tied into one unit"),
    ],
)
def test_kept_layers_have_their_reason(name, layer, reason):
    assert reason in follow(*NETWORKS[name]()).kept[layer]


def index_put(middle, x):
    y = torch.zeros_like(x)
    y[:, torch.arange(16)] = x
    return y


def slice_of_itself(middle, x):
    x = x * 1
    x[:, :4] = x[:, 4:8]
    return x


def spectral():
    return nn.utils.parametrizations.spectral_norm(nn.Conv2d(16, 16, 3, padding=1))


KEPT = {
    "softmax": (lambda m, x: x.softmax(1), {}, "softmax over channels: _softmax in 'middle' (Middle)"),
    "sort": (lambda m, x: x.sort(1).values, {}, "ordered along channels: sort in 'middle'"),
    "literal slice": (lambda m, x: torch.cat([x[:, :8] + x[:, 8:]] * 2, 1), {}, "slice in 'middle'"),
    "literal narrow": (lambda m, x: torch.cat([x.narrow(1, 0, 8), x.narrow(1, 8, 8)], 1), {}, "slice in 'middle'"),
    "literal index": (lambda m, x: x[:, torch.arange(15, -1, -1)], {}, "index in 'middle'"),
    "literal view": (lambda m, x: x.view(-1, 16, 64).view_as(x), {}, "view in 'middle'"),
    "index put": (index_put, {}, "index_put in 'middle'"),
    "unequal split": (lambda m, x: torch.cat(x.split([4, 12], 1), 1), {}, "split_with_sizes in 'middle'"),
    "spectral norm": (lambda m, x: m.conv(x), {"conv": spectral()}, "mv in 'middle.conv.parametrizations.weight.0'"),
    "wrong numbers": (
        lambda m, x: x / x.shape[1] ** 0.5,
        {},
        "(gives other numbers when fewer channels are active): div in 'middle' (Middle)",
    ),
    "assertion": (
        lambda m, x: x if x.shape[1] == 16 else 1 / 0,
        {},
        "(division by zero): forward of 'middle' (Middle)",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_mixes_channels_is_kept_and_reported(name):
    function, layers, reason = KEPT[name]
    layout = follow(Wrapped(function, **layers), torch.randn(2, 3, 8, 8))
    assert reason in layout.kept["a"]
    assert {group.name for group in layout.groups} == {"first", "b"}


def test_only_the_channels_that_a_literal_slice_names_stay():
    layout = follow(Wrapped(slice_of_itself), torch.randn(2, 3, 8, 8))
    assert [(segment.group, segment.units) for segment in layout.axes["a.weight"][0]] == [(None, 8), (1, 8)]


def test_tensors_that_draw_noise_still_slim():
    net = Wrapped(lambda m, x: x + torch.randn_like(x) * nn.functional.dropout(x, 0.5))
    assert "a" not in follow(net, torch.randn(2, 3, 8, 8)).kept


def test_control_flow_on_a_statistic_of_all_channels_still_slims():
    assert set(follow(*NETWORKS["control_flow"]()).kept) == {"fc"}


def test_halves_by_shape_slim():
    net = Wrapped(lambda m, x: torch.cat([x[:, : x.shape[1] // 2].relu(), x[:, x.shape[1] // 2 :]], 1))
    assert "a" not in follow(net, torch.randn(2, 3, 8, 8)).kept


def test_sum_over_channels_slims():
    net = Wrapped(lambda m, x: x * (x * x).sum(1, keepdim=True).sigmoid().detach())
    assert "a" not in follow(net, torch.randn(2, 3, 8, 8)).kept


def test_norms_called_as_functions_slim():
    def normed_twice(middle, x):
        x = nn.functional.group_norm(nn.functional.batch_norm(x, None, None, training=True), x.shape[1] // 2)
        return nn.functional.instance_norm(nn.functional.layer_norm(x, x.shape[-1:]))

    assert "a" not in follow(Wrapped(normed_twice), torch.randn(2, 3, 8, 8)).kept


def test_heads_whose_number_is_a_literal_slim_inside():
    def attend(middle, x):
        n, _, h, w = x.shape
        q, k, v = middle.qkv(x).reshape(n, 3, 4, -1, h * w).transpose(-1, -2).unbind(1)
        y = (q @ k.transpose(-1, -2) * 0.1).softmax(-1) @ v
        return middle.out(y.transpose(-1, -2).reshape(n, -1, h, w))

    net = Wrapped(attend, qkv=nn.Conv2d(16, 48, 1), out=nn.Conv2d(16, 16, 1))
    layout = follow(net, torch.randn(2, 3, 8, 8))
    assert set(layout.kept) == {"last"}
    assert len(layout.axes["middle.qkv.weight"][0]) == 3 * 4


def test_a_convolution_over_tokens_stays_full():
    def mix_tokens(middle, x):  # the tokens are the channels of this convolution
        return middle.conv(x.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(x)

    layout = follow(Wrapped(mix_tokens, conv=nn.Conv1d(64, 64, 1)), torch.randn(2, 3, 8, 8))
    assert set(layout.kept) == {"last", "middle.conv"}


def test_an_embedding_that_is_also_the_output_slims_in_its_columns():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.hidden = nn.Embedding(10, 16), nn.Linear(16, 16)

        def forward(self, x):
            return self.hidden(self.embed(x)).relu() @ self.embed.weight.t()

    layout = follow(Tied(), torch.tensor([[1, 2, 3]]))
    assert layout.axes["embed.weight"] == {1: layout.axes["hidden.weight"][0]} == {1: layout.axes["hidden.weight"][1]}


def test_one_image_is_enough_for_batch_norm_behind_global_pooling():
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16, 2)
    )
    assert len(follow(net, torch.randn(1, 3, 8, 8)).groups) == 1


def test_layers_added_to_the_input_stay_full():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.c(x + self.b(self.a(x).relu()))

    assert follow(Skip(), torch.randn(2, 8)).kept["b"] == "is joined with the network's input"


def test_keep_adds_to_what_stays_full():
    net = Residual()
    layout = follow(net, image())
    kept = follow(net, image(), keep=["blocks.2", "blocks.0.a"])
    assert kept.kept["blocks.2.a.0"] == "kept by keep='blocks.2'"
    assert kept.kept["blocks.0.a.0"] == "kept by keep='blocks.0.a'"
    assert layout.kept.items() < kept.kept.items()


def test_a_norm_that_keeps_statistics_of_one_width_stays_and_the_rest_slims():
    norm = nn.InstanceNorm2d(16, affine=True, track_running_stats=True)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), norm, nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 3, 3))
    assert set(follow(net, image()).kept) == {"0", "4"}
    assert share_left(net, image()) < 0.6


def test_keep_of_an_unknown_name_tells_the_nearest():
    with pytest.raises(ValueError, match=r"keep='block.1' names no module of this Residual; the nearest is 'blocks.1'"):
        follow(Residual(), image(), keep=["block.1"])


class Turning(nn.Module):
    """A matrix for each sample, as in PointNet."""

    def __init__(self, side):
        super().__init__()
        self.side = side
        self.a, self.b = nn.Conv1d(side, 16, 1), nn.Conv1d(16, 32, 1)
        self.c, self.d = nn.Linear(32, 16), nn.Linear(16, side * side)

    def forward(self, x):
        return self.d(self.c(self.b(self.a(x).relu()).amax(2)).relu()).view(-1, self.side, self.side)


class Points(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.turning, self.second = nn.Conv1d(3, 16, 1), Turning(16), nn.Conv1d(16, 32, 1)
        self.last = nn.Linear(32, 3)

    def forward(self, x):
        x = self.first(x).relu()
        return self.last(self.second((x.transpose(1, 2) @ self.turning(x)).transpose(1, 2)).amax(2))


def test_a_view_that_makes_more_samples_is_no_view_of_fewer_channels():
    layout = follow(Points(), torch.randn(2, 3, 9))
    assert set(layout.kept) == {"first", "turning.d", "last"}
    assert layout.numbers == {}
    assert share_left(Points(), torch.randn(2, 3, 9)) < 0.85


class OfPixels(nn.Module):
    """Attention of pixels, scaled by what is no power of the number of channels."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(4, 32)
        self.q, self.k, self.v, self.out = (nn.Conv2d(32, 32, 1) for _ in range(4))

    def forward(self, x):
        y = self.norm(x)
        q, k, v = self.q(y), self.k(y), self.v(y)
        n, c, h, w = q.shape
        weights = torch.bmm(q.reshape(n, c, h * w).transpose(1, 2), k.reshape(n, c, h * w)) / math.log(c)
        made = torch.bmm(v.reshape(n, c, h * w), weights.softmax(2).transpose(1, 2))
        return x + self.out(made.reshape(n, c, h, w))


def test_what_a_number_of_channels_scales_stays_and_the_trunk_around_it_slims():
    net = between_convolutions(lambda net, x: net.attention(x), attention=OfPixels())
    assert set(follow(net, image()).kept) == {"attention.q", "attention.k", "attention.v", "last"}
    assert share_left(net, image()) < 0.45


def test_a_scale_by_all_channels_keeps_what_is_multiplied_and_nothing_else():
    """How alike places are, as in RAFT, far from the halves that forward cuts."""

    def middle(net, x):
        state, more = net.halves(x).chunk(2, 1)
        seen = net.features(x).flatten(2)
        alike = (seen.transpose(1, 2) @ seen / math.log(seen.shape[1])).view(len(x), -1, *x.shape[2:])
        more = torch.cat([more, net.alike(alike)], 1)
        return torch.tanh(state) * torch.sigmoid(net.gate(more)) + state

    layers = {"halves": conv(32, 64), "features": conv(32, 32), "alike": conv(256, 32), "gate": conv(64, 32)}
    net = between_convolutions(middle, **layers)
    assert share_left(net, image()) < 0.45
    full = [layer for layer in net.slim.layout.kept if layer != "last"]
    assert full == ["features"] and "div in the network's own forward" in net.slim.layout.kept["features"]
