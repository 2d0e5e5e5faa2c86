"""What cannot be followed is refused, with the names of layer and operation, and nothing is touched."""

import copy

import pytest
import torch
from torch import nn

from slimlib.flow import FlowError, follow
from tests.networks_with_quirks import Wrapped


def slice_assignment(middle, x):
    y = torch.zeros_like(x)
    y[:, : x.shape[1] // 2] = x[:, x.shape[1] // 2 :]
    return x + y


def slice_of_itself(middle, x):
    x = x * 1
    x[:, :4] = x[:, 4:8]
    return x


def standardised(middle, x):
    weight = middle.conv.weight
    weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
    return nn.functional.conv2d(x, weight, padding=1)


def spectral():
    return nn.utils.parametrizations.spectral_norm(nn.Conv2d(16, 16, 3, padding=1))


REFUSED = {
    "slice assignment": (slice_assignment, {}, r"copy in 'middle' \(Middle\) writes channels into a view"),
    "slice of itself": (slice_of_itself, {}, r"copy in 'middle' \(Middle\) writes channels into a view"),
    "standardised weight": (
        standardised,
        {"conv": nn.Conv2d(16, 16, 3)},
        r"convolution in 'middle' \(Middle\) is computed from 'middle.conv.weight' by sub",
    ),
    "spectral norm": (
        lambda m, x: m.conv(x),
        {"conv": spectral()},
        r"convolution in 'middle.conv' \(ParametrizedConv2d\) is computed from 'middle.conv.parametrizations.weight",
    ),
    "wrong numbers": (
        lambda m, x: x / x.shape[1] ** 0.5,
        {},
        r"div in 'middle' \(Middle\) gives other numbers when fewer channels are active",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(name):
    function, layers, message = REFUSED[name]
    net = Wrapped(function, **layers)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(FlowError, match=message):
        follow(net, torch.randn(2, 3, 8, 8))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_wrong_numbers_can_be_kept_full():
    net = Wrapped(lambda m, x: x / x.shape[1] ** 0.5)
    assert "a" in follow(net, torch.randn(2, 3, 8, 8), keep=["a"]).kept


def test_a_network_in_which_nothing_slims_is_refused():
    with pytest.raises(FlowError, match=r"nothing slims in this Linear. .* reaches the network's output"):
        follow(nn.Linear(4, 4), torch.randn(2, 4))


def test_harmless_writes_into_views_are_followed():
    net = Wrapped(lambda m, x: x.flatten(2).relu_().add_(x.flatten(2)).view_as(x))
    assert "a" not in follow(net, torch.randn(2, 3, 8, 8)).kept
