"""Statistics over channels, in norms and by hand, are over the active channels."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slimlib as slim
from slimlib.flow import FlowError, follow
from tests.networks_with_quirks import Wrapped
from tests.slimlib.flow.judging import (
    Net,
    between_convolutions,
    between_linears,
    conv,
    image,
    parameter,
    share_left,
    tokens,
)


def by_places(net, x):
    """CBAM: Woo et al. 2018, sec. 3."""
    both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return x * net.attend(both).sigmoid()


def over_images(net, x):
    spread = x.std(0, keepdim=True).mean((1, 2, 3), keepdim=True)
    return x * spread.sigmoid()


def by_groups(net, x):
    groups = x.view(2, 8, -1, 8, 8)
    variance, mean = torch.var_mean(groups, (2, 3, 4), keepdim=True)
    return ((groups - mean) / (variance + 1e-5).sqrt()).view_as(x)


def global_response(net, x):
    """ConvNeXt V2: Woo et al. 2023, sec. 3.2."""
    lengths = x.norm(p=2, dim=(2, 3), keepdim=True)
    return x + net.gamma * (x * lengths / (lengths.mean(1, keepdim=True) + 1e-6))


OF_IMAGES = {
    "LayerNorm by hand": lambda net, x: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-6).sqrt(),
    "standard deviation": lambda net, x: x / (x.std(1, keepdim=True, unbiased=False) + 1e-6),
    "var_mean": lambda net, x: (lambda v, m: (x - m) * (v + 1e-6).rsqrt())(*torch.var_mean(x, 1, keepdim=True)),
    "pixel norm": lambda net, x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-8),
    "length": lambda net, x: F.normalize(x, dim=1),
    "length of all": lambda net, x: x / x.norm(),
    "largest of all": lambda net, x: x / x.abs().max(),
    "deviation of all": lambda net, x: x / x.std(),
    "largest with its place": lambda net, x: x * x.max(1, keepdim=True)[0].sigmoid(),
    "log of a sum": lambda net, x: x * x.logsumexp(1, keepdim=True).sigmoid(),
    "whole image": lambda net, x: (x - x.mean((1, 2, 3), keepdim=True)) / x.var((1, 2, 3), keepdim=True).sqrt(),
    "one group": lambda net, x: F.group_norm(x, 1),
    "layer_norm of images": lambda net, x: F.layer_norm(x, x.shape[1:]),
    "spread over a batch": over_images,
    "sum over their number": lambda net, x: x - x.sum(1, keepdim=True) / x.shape[1],
    "sum over all elements": lambda net, x: x - x.sum((1, 2, 3), keepdim=True) / x[0].numel(),
    "squares over their number": lambda net, x: x * (x.square().sum(1, keepdim=True) / x.size(1) + 1e-6).rsqrt(),
    "length over a root": lambda net, x: x / (x.norm(2, dim=1, keepdim=True) * x.shape[1] ** -0.5 + 1e-6),
    "length times a root": lambda net, x: F.normalize(x, dim=1) * math.sqrt(x.shape[1]),
    "response over their number": lambda net, x: (
        x / (x.norm(dim=(2, 3), keepdim=True).sum(1, keepdim=True) / len(x[0]))
    ),
    "of each channel": lambda net, x: (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True),
    "groups by hand": by_groups,
}


@pytest.mark.parametrize("name", OF_IMAGES)
def test_statistics_over_the_channels_of_images(name):
    assert share_left(between_convolutions(OF_IMAGES[name]), image()) < 0.35


@pytest.mark.parametrize(
    ("middle", "layers"),
    [
        (by_places, {"attend": conv(2, 1, 7)}),
        (global_response, {"gamma": parameter(1, 32, 1, 1)}),
        (lambda net, x: net.norm(x), {"norm": nn.GroupNorm(1, 32)}),
        (lambda net, x: net.norm(x), {"norm": nn.GroupNorm(1, 32, affine=False)}),
        (lambda net, x: net.norm(x), {"norm": nn.LayerNorm([32, 8, 8])}),
        (lambda net, x: net.norm(x), {"norm": nn.LayerNorm([32, 8, 8], elementwise_affine=False)}),
        (lambda net, x: net.norm(x.movedim(1, -1)).movedim(-1, 1), {"norm": nn.LayerNorm(32)}),
    ],
)
def test_norms_and_gates_with_layers(middle, layers):
    net = between_convolutions(middle, **layers)
    extra = sum(
        p.numel()
        for layer in layers.values()
        for p in ([layer] if isinstance(layer, nn.Parameter) else layer.parameters())
    )
    every = sum(p.numel() for p in net.parameters())
    assert share_left(net, image()) < 0.35 + extra / every


def rms(net, x):
    wide = x.to(torch.float32)
    return net.gain * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


@pytest.mark.parametrize("middle", [rms, lambda net, x: F.normalize(x, dim=-1) * net.gain * 32**0.5])
def test_rms_norms_of_tokens(middle):
    assert share_left(between_linears(middle, gain=parameter(32)), tokens()) < 0.4


def test_dot_products_are_over_the_active_channels():
    def similar(net, x):
        return F.cosine_similarity(net.a(x), net.b(x), dim=1)

    net = Net(similar, a=nn.Linear(16, 32), b=nn.Linear(16, 32))
    assert share_left(net, torch.randn(2, 16)) < 0.55
    net = Net(lambda net, x: (net.a(x) * net.b(x)).sum(-1), a=nn.Linear(16, 32), b=nn.Linear(16, 32))
    assert share_left(net, torch.randn(2, 16)) < 0.55
    net = Net(lambda net, x: torch.cdist(net.a(x), net.centres), a=nn.Linear(16, 32), centres=parameter(6, 32))
    assert share_left(net, torch.randn(4, 16)) < 0.55


@pytest.mark.parametrize("name", ["LayerNorm by hand", "squares over their number", "length times a root"])
def test_half_width_equals_a_twin_with_half_the_channels(name):
    """Statistics of the narrow network are those of a network that has no other channels."""
    torch.manual_seed(0)

    def normed(channels):
        def forward(net, x):
            return net.c(net.norm(net.b(net.gain * OF_IMAGES[name](net, net.a(x)))))

        layers = {"a": conv(3, channels), "b": conv(channels, channels), "c": conv(channels, 3)}
        return Net(forward, **layers, gain=parameter(channels, 1, 1), norm=nn.GroupNorm(1, channels)).double()

    net, twin, x = normed(32), normed(16), image().double()
    for key, value in twin.state_dict().items():
        value.copy_(net.state_dict()[key][tuple(slice(n) for n in value.shape)])
    slim.set_width(slim.convert(net, x), 0.5)
    torch.testing.assert_close(net(x), twin(x), rtol=1e-9, atol=1e-9)


def test_the_report_says_which_layers_take_statistics_over_the_active_channels():
    net = Wrapped(lambda m, x: m.norm(F.normalize(x, dim=1)), norm=nn.GroupNorm(1, 16))
    slim.convert(net, image())
    assert "over the active channels: linalg_vector_norm in middle" in str(net.slim)
    assert "over the active channels: group_norm in middle.norm" in str(net.slim)
    assert net.slim.layout.statistics == {"middle": "linalg_vector_norm", "middle.norm": "group_norm"}


def test_the_place_of_the_largest_is_no_statistic():
    net = between_convolutions(lambda net, x: x * x.max(1, keepdim=True)[1])
    assert "max in the network's own forward" in follow(net, image()).kept["first"]
    net = Net(lambda net, x: net.a(x).argmax(1), a=conv(3, 32))
    with pytest.raises(FlowError, match="depends on the order of channels: argmax"):
        follow(net, image())


@pytest.mark.parametrize(
    ("middle", "operation"),
    [
        (lambda net, x: x / x.shape[1], "div"),
        (lambda net, x: x * x.shape[1] ** -0.5, "mul"),
        (lambda net, x: x * (x.sum(1, keepdim=True) / (x.shape[1] - 1)), "div"),
        (lambda net, x: x if x.shape[1] > 16 else x * 2, "convolution"),
    ],
)
def test_numbers_of_channels_in_the_arithmetic_keep_them_full(middle, operation):
    layout = follow(between_convolutions(middle), image())
    assert f"gives other numbers when fewer channels are active): {operation} in" in layout.kept["first"]
    assert {group.name for group in layout.groups} == {"second"}


def test_statistics_survive_a_copy_and_training():
    net = between_convolutions(OF_IMAGES["LayerNorm by hand"])
    slim.set_width(slim.convert(net, image()), 0.5)
    other, x = copy.deepcopy(net), image()
    net(x).square().mean().backward()
    torch.testing.assert_close(other(x), net(x))
    assert net.first._parameters["weight"].grad[16:].abs().sum() == 0
