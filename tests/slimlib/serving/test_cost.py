"""Costs against numbers worked out by hand, and that counting leaves no trace."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

import slimlib as slim
from slimlib.core.handwritten import adopt
from slimlib.core.layers import SlimConv2d, SlimLinear
from slimlib.core.setting import current_width, set_width
from slimlib.core.width import WidthPlan
from slimlib.serving.cost import Cost, cost, latency
from tests.networks import NETWORKS, WDSR, Concatenating, MobileNet

DENSE: dict[str, tuple[nn.Module, tuple[int, ...], Cost]] = {
    "convolution": (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 5, 5), Cost(27 * 8 * 25, 27 * 8 + 8, 4 * 8 * 25)),
    "batch of two": (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 5, 5), Cost(2 * 27 * 8 * 25, 27 * 8 + 8, 2 * 4 * 8 * 25)),
    "grouped": (nn.Conv2d(8, 16, 3, groups=2, bias=False), (1, 8, 3, 3), Cost(36 * 16, 36 * 16, 4 * 16)),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8, bias=False), (1, 8, 3, 3), Cost(9 * 8, 9 * 8, 4 * 8)),
    "transposed": (
        nn.ConvTranspose2d(8, 4, 2, 2, bias=False),
        (1, 8, 3, 3),
        Cost(9 * 8 * 4 * 4, 8 * 4 * 4, 4 * 4 * 36),
    ),
    "linear over positions": (nn.Linear(6, 5), (2, 3, 6), Cost(6 * 30, 35, 4 * 30)),
    "no product at all": (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), (1, 3, 1, 1), Cost(0, 6, 0)),
    "recurrent": (nn.LSTM(8, 16), (5, 1, 8), Cost(5 * 64 * 24, 64 * 24 + 128, 4 * 2 * 5 * 64)),
    "attention": (
        nn.TransformerEncoderLayer(32, 4, 64, batch_first=True),
        (1, 10, 32),
        # four projections, two of the feed-forward, and the two products of attention (4 heads)
        Cost(10 * 32 * 32 * 4 + 10 * 32 * 64 * 2 + 2 * 10 * 10 * 32, 8544, 4 * (10 * (128 + 64 + 32) + 4 * 100 + 320)),
    ),
}


@pytest.mark.parametrize("name", DENSE)
def test_counts_of_plain_modules_are_those_worked_out_by_hand(name: str) -> None:
    module, shape, expected = DENSE[name]
    assert cost(module, torch.zeros(shape)) == expected


def slim_net() -> nn.Module:
    net = nn.Sequential(
        SlimConv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        SlimConv2d(16, 32, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        SlimLinear(32, 10, slim_output=False),
    )
    return adopt(net)


@pytest.mark.parametrize(("width", "a", "b"), [(1.0, 16, 32), (0.5, 8, 16), (WidthPlan((3, 5)), 3, 5)])
def test_multiply_adds_and_activations_at_a_width(width: Any, a: int, b: int) -> None:
    counted = cost(slim_net(), torch.zeros(1, 3, 4, 4), width)
    assert counted.macs == 16 * 27 * a + 16 * 9 * a * b + b * 10
    assert counted.activations == 4 * (16 * a + 16 * b + 10)


def test_counting_leaves_no_trace() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.register_buffer("seen", torch.zeros(()))
            self.last: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.norm(self.conv(x))
            self.seen = self.seen + self.last.numel()
            return self.last

    net = Remembers()
    net.norm.eval()
    before = {name: (tensor, tensor.clone()) for name, tensor in net.state_dict(keep_vars=True).items()}
    random = torch.get_rng_state()
    cost(net, torch.zeros(2, 3, 4, 4))
    after = net.state_dict(keep_vars=True)
    assert all(after[name] is tensor and torch.equal(tensor, copy) for name, (tensor, copy) in before.items())
    assert net.last is None
    assert torch.equal(torch.get_rng_state(), random)
    assert (net.training, net.conv.training, net.norm.training) == (True, True, False)


def test_counting_within_autocast_leaves_no_trace() -> None:
    net, args = NETWORKS["mobilenet"]()
    net.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = net(*args)
        assert cost(net, args) == cost(copy.deepcopy(net), args)
        assert torch.equal(net(*args), expected)


def test_counting_keeps_the_width_that_is_set() -> None:
    net = slim_net()
    set_width(net, 0.5)
    cost(net, torch.zeros(1, 3, 4, 4), 0.25)
    assert current_width(net) == 0.5
    assert net[0](torch.zeros(1, 3, 4, 4)).shape[1] == 8


def test_nothing_is_computed() -> None:
    huge = nn.Linear(2**20, 2**20, bias=False, device="meta")
    assert cost(huge, torch.zeros(2**10, 2**20, device="meta")).macs == 2**50


def test_a_shared_parameter_counts_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    assert cost(net, torch.zeros(1, 4)).params == 16


def test_a_plain_module_has_only_width_one() -> None:
    with pytest.raises(ValueError, match="slimlib.convert"):
        cost(nn.Linear(4, 4), torch.zeros(1, 4), 0.5)


def test_a_forward_that_looks_at_values_is_refused_by_name() -> None:
    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    for device in ("cpu", "meta"):
        with pytest.raises(ValueError, match="the forward of Looks looks at values"):
            cost(Looks(), torch.zeros(2, device=device))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("control_flow", "sb3_mlp")])
def test_a_network_of_shapes_alone_costs_what_it_does_with_numbers(name: str) -> None:
    with torch.device("meta"):
        shapes = cost(*NETWORKS[name]())
    assert shapes == cost(*NETWORKS[name]())


def test_latency_is_the_median_after_the_warmup_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    now, takes = 0.0, iter([9.0, 9.0, 0.004, 0.001, 0.002])  # seconds of each pass

    def forward(*_: Any) -> None:
        nonlocal now
        now += next(takes)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))  # in training mode it refuses one value a channel
    net.register_forward_hook(forward)
    assert latency(net, torch.zeros(1, 4), repeats=3, warmup=2) == pytest.approx(2.0)
    assert net.training


def converted() -> nn.Module:
    return slim.convert(MobileNet(stem=16, channels=(32, 64)), torch.randn(2, 3, 16, 16))


def test_a_width_costs_what_the_dense_network_of_its_channels_does() -> None:
    image, half = torch.zeros(1, 3, 16, 16), MobileNet(stem=8, channels=(16, 32))
    assert cost(converted(), image, 0.5) == cost(half, image)
    assert cost(converted(), image) == cost(MobileNet(stem=16, channels=(32, 64)), image)


def test_a_width_without_statistics_is_counted_and_stays_without() -> None:
    net, image = converted().eval(), torch.zeros(1, 3, 4, 4)
    cost(net, image, 0.5)
    with slim.at_width(net, 0.5), pytest.raises(slim.UncalibratedWidth):
        net(image)


def test_private_switches_count_only_the_one_in_use() -> None:
    dense = MobileNet(stem=16, channels=(32, 64))
    net = slim.convert(dense, torch.randn(2, 3, 16, 16), widths=slim.Switches(0.5, 1.0), norm="switchable")
    half, image = MobileNet(stem=8, channels=(16, 32)), torch.zeros(1, 3, 16, 16)
    assert cost(net, image, 0.5) == cost(half, image)
    assert cost(net, image) == cost(MobileNet(stem=16, channels=(32, 64)), image)


def test_an_extracted_network_costs_what_the_dense_one_does_and_a_frozen_one_is_refused() -> None:
    net, half, image = converted(), MobileNet(stem=8, channels=(16, 32)), torch.zeros(1, 3, 16, 16)
    slim.calibrate(net, [torch.randn(2, 3, 16, 16)], widths=[0.5])
    assert cost(slim.extract(net, 0.5), image) == cost(half, image)
    with pytest.raises(ValueError, match="the one it was made from"):
        cost(slim.freeze(net, widths=[0.5]), image, 0.5)


def test_weight_norm_and_pixel_shuffle() -> None:
    def counted(features: int, wide: int, low: int) -> Cost:
        return cost(WDSR(features=features, wide=wide, low=low), torch.zeros(1, 3, 8, 8))

    net = slim.convert(WDSR(features=32, wide=128, low=32), torch.randn(1, 3, 8, 8))
    assert cost(net, torch.zeros(1, 3, 8, 8), 0.5) == counted(16, 64, 16)


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_concatenated_inputs_count_as_those_of_the_extracted_network(width: float) -> None:
    net, image = slim.convert(Concatenating(), torch.randn(2, 3, 16, 16)).eval(), torch.randn(2, 3, 16, 16)
    slim.calibrate(net, [image], [width])
    assert cost(net, image, width) == cost(slim.extract(net, width), image)


def test_a_network_computes_as_before_after_it_was_counted() -> None:
    net, image = slim.convert(Concatenating(), torch.randn(2, 3, 16, 16)), torch.randn(2, 3, 16, 16)
    slim.set_width(net, 0.5)
    before = net(image)
    cost(net, image, 0.5)
    assert torch.equal(net(image), before)
    assert all(type(value) is not FakeTensor for m in net.modules() for value in m.__dict__.values())


def test_an_operation_that_does_not_run_on_shapes_alone_is_counted_all_the_same() -> None:
    @torch.library.custom_op("slimlib_tests::doubled", mutates_args=())
    def doubled(x: Tensor) -> Tensor:
        return 2 * x

    class Doubles(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(doubled(x))

    x = torch.randn(3, 6)
    assert cost(Doubles(6, 4), x).macs == cost(nn.Linear(6, 4), x).macs


def test_a_network_that_draws_from_a_distribution_is_counted_and_keeps_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # False after any torch.compile

    class Kept:
        drawn: Tensor | None = None

    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.out, self.kept = nn.Linear(4, 16), nn.Linear(16, 2), Kept()

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.hidden(x)
            self.kept.drawn = torch.distributions.Normal(hidden, hidden.exp()).rsample()
            return self.out(self.kept.drawn)

    net, x = Draws(), torch.randn(3, 4)
    assert cost(net, x).macs == 3 * (4 * 16 + 16 * 2)
    assert net.kept.drawn is None
    with pytest.raises(ValueError, match="within the support|constraint"):  # as before, values are checked
        net(x * float("nan"))
