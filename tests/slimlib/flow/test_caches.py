"""What forward makes of its weights and keeps for its next call is made again for another width."""

import pytest
import torch
from torch import nn

import slimlib as slim
from tests.slimlib.flow.judging import Net, between_linears, parameter, share_left, tokens


def in_a_dict(net):
    if "bias" not in net.kept:
        net.kept["bias"] = net.table[:, net.places]  # as LeViT does
    return net.kept["bias"]


def in_an_attribute(net):
    if net.made is None:
        net.made = net.table[:, net.places]
    return net.made


def network(bias):
    def forward(net, x):
        q, k, v = (layer(x).view(*x.shape[:2], -1, 4).transpose(1, 2) for layer in (net.q, net.k, net.v))
        y = (q @ k.transpose(-1, -2) + bias(net)).softmax(-1) @ v
        return net.last(y.transpose(1, 2).flatten(2))

    layers = {name: nn.Linear(16, 32) for name in "qkv"}
    places = (torch.arange(5)[:, None] - torch.arange(5)).abs()
    net = Net(forward, **layers, table=parameter(8, 5), places=places, last=nn.Linear(32, 3))
    net.kept, net.made = {}, None
    return net.eval()


@pytest.mark.parametrize("bias", [in_a_dict, in_an_attribute])
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used before"])
def test_a_cache_of_one_width_does_not_meet_another(bias, used):
    net, x = network(bias), tokens()
    if used and bias is in_a_dict:
        net(x)
    slim.convert(net, x)
    assert "q" in {layer for group in net.slim.layout.groups for layer in group.layers}
    full = net(x)
    slim.set_width(net, 0.5)
    half = net(x)
    assert torch.allclose(slim.extract(net, 0.5)(x), half, atol=1e-6)
    slim.set_width(net, 1.0)
    assert torch.equal(net(x), full)
    slim.set_width(net, 0.5)
    assert torch.equal(net(x), half)
    served = slim.freeze(net, widths=[0.5, 1.0])
    for width, expected in ((1.0, full), (0.5, half), (1.0, full)):
        slim.set_width(served, width)
        assert torch.allclose(served(x), expected, atol=1e-6)


def test_a_dict_that_is_no_cache_keeps_what_is_in_it():
    net = network(in_a_dict)
    net.kept["bias"] = torch.ones(1, 5, 5)
    x = tokens()
    before = net(x)
    slim.convert(net, x)
    assert torch.equal(net(x), before)
    assert torch.equal(net.kept["bias"], torch.ones(1, 5, 5))


def test_a_table_in_a_plain_attribute_is_sliced():
    net = Net(lambda net, x: net.last((net.first(x) + net.places[:, : x.shape[1]]).relu()), first=nn.Linear(16, 32))
    net.last, net.places, net.seen = nn.Linear(32, 3), torch.randn(1, 9, 32), torch.zeros(3)
    keys, x = list(net.state_dict()), tokens()
    assert share_left(net, x) < 0.6
    assert list(net.state_dict()) == keys
    assert net.places.shape == (1, 9, 16)
    assert type(net.__dict__["seen"]) is torch.Tensor


class Anchors(Net):
    """What forward makes for the size of the first image it sees, as the heads of YOLO do."""

    anchors = torch.empty(0)

    def forward(self, x):
        if self.anchors.shape != x.shape[1:2]:
            self.anchors = torch.arange(x.shape[1]) + 0.5
        return self.last(self.first(x).relu()) + self.anchors[:, None]


def test_a_plain_attribute_that_its_class_has_a_default_for():
    net, x = Anchors(None, first=nn.Linear(16, 32), last=nn.Linear(32, 3)), tokens()
    net(x)
    assert share_left(net, x) < 0.6


class Frozen(dict):
    """Settings as the models of diffusers hold them."""

    def update(self, *_: object) -> None:
        raise TypeError("frozen")

    clear = pop = setdefault = update


def test_settings_in_a_frozen_dict():
    net = between_linears(lambda net, x: x * net.settings["scale"])
    net.settings = Frozen(scale=0.5)
    assert share_left(net, tokens()) < 0.36
