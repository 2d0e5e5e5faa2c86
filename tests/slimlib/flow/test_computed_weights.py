"""Weights that forward computes are followed by their axes; what cannot be sliced alike stays full by name."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slimlib as slim
from slimlib.flow import FlowError, follow
from tests.slimlib.flow.judging import (
    Net,
    between_convolutions,
    between_linears,
    conv,
    image,
    parameter,
    same,
    share_left,
    spoil,
    tokens,
)


def standardised(weight):
    variance, mean = torch.var_mean(weight, (1, 2, 3), keepdim=True, unbiased=False)
    return (weight - mean) * (variance + 1e-5).rsqrt()


def standardised_by_views(weight):
    """As Qiao et al. 2019 publish it."""
    weight = weight - weight.mean(1, keepdim=True).mean(2, keepdim=True).mean(3, keepdim=True)
    return weight / (weight.view(weight.size(0), -1).std(1).view(-1, 1, 1, 1) + 1e-5)


def standardised_by_batch_norm(weight):
    flat = weight.reshape(1, len(weight), -1)
    return F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(weight)


OF_CONVOLUTIONS = {
    "standardised": standardised,
    "standardised by views": standardised_by_views,
    "standardised by batch_norm": standardised_by_batch_norm,
    "scaled": lambda weight: weight / math.sqrt(288),
    "signs": lambda weight: weight.sign() * weight.abs().mean((1, 2, 3), keepdim=True),
    "rounded": lambda weight: (weight / weight.abs().max() * 127).round() / 127,
    "copied": lambda weight: weight.clone().contiguous().to(torch.float64).to(weight.dtype),
    "flipped in space": lambda weight: weight.flip(2) + weight.flip(3),
    "transposed twice": lambda weight: weight.transpose(0, 1).permute(1, 0, 3, 2),
    "padded": lambda weight: F.pad(weight[:, :, 1:2, 1:2], (1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", OF_CONVOLUTIONS)
def test_computed_weights_of_convolutions(name):
    def middle(net, x):
        return F.conv2d(x, OF_CONVOLUTIONS[name](net.weight).to(x.dtype), padding=1)

    assert share_left(between_convolutions(middle, weight=parameter(32, 32, 3, 3)), image()) < 0.35


def test_a_gain_with_the_dimensions_of_the_weight():
    """As the weights of NFNets are standardised."""

    def middle(net, x):
        flat = net.weight.reshape(1, len(net.weight), -1)
        gain = (net.gain * 0.3).view(-1)
        return F.conv2d(x, F.batch_norm(flat, None, None, weight=gain, training=True).reshape_as(net.weight), padding=1)

    net = between_convolutions(middle, weight=parameter(32, 32, 3, 3), gain=parameter(32, 1, 1, 1))
    assert share_left(net, image()) < 0.35


OF_LINEARS = {
    "low rank": (lambda net: net.weight + net.b @ net.a * 0.5, {"a": parameter(4, 32), "b": parameter(32, 4)}),
    "masked": (lambda net: net.weight * net.mask, {"mask": (torch.rand(32, 32) > 0.5).float()}),
    "gain of each output": (lambda net: net.weight * net.gain[:, None], {"gain": parameter(32)}),
    "gain of each input": (lambda net: net.weight * net.gain, {"gain": parameter(32)}),
    "lengths": (lambda net: F.normalize(net.weight, dim=-1), {}),
    "joined": (lambda net: torch.cat([net.weight, net.other])[: len(net.weight) * 2], {"other": parameter(32, 32)}),
}


@pytest.mark.parametrize("name", OF_LINEARS)
def test_computed_weights_of_linear_layers(name):
    compute, layers = OF_LINEARS[name]

    def middle(net, x):
        y = F.linear(x, compute(net))
        return y[..., : y.shape[-1] // 2] + y[..., y.shape[-1] // 2 :] if name == "joined" else y

    assert share_left(between_linears(middle, weight=parameter(32, 32), **layers), tokens()) < 0.45


def test_joined_weights_of_two_layers():
    def forward(net, x):
        both = F.linear(x, torch.cat([net.q.weight, net.k.weight]), torch.cat([net.q.bias, net.k.bias]))
        q, k = both.chunk(2, -1)
        return net.o(q * k.sigmoid())

    net = Net(forward, q=nn.Linear(16, 32), k=nn.Linear(16, 32), o=nn.Linear(32, 3))
    assert share_left(net, tokens()) < 0.55


BLURS = {
    "expanded": lambda net, x: net.kernel.expand(x.shape[1], 1, 3, 3),
    "repeated": lambda net, x: net.kernel.repeat(x.shape[1], 1, 1, 1),
    "made in forward": lambda net, x: x.new_ones(x.shape[1], 1, 3, 3) / 9,
    "of every channel": lambda net, x: net.kernels,
}


@pytest.mark.parametrize("name", BLURS)
def test_fixed_kernels_of_every_channel(name):
    def blur(net, x):
        return F.conv2d(x, BLURS[name](net, x), padding=1, groups=x.shape[1])

    net = between_convolutions(blur, kernel=torch.rand(1, 1, 3, 3), kernels=torch.rand(32, 1, 3, 3))
    assert share_left(net, image()) < 0.35


def test_bilinear_layers():
    net = Net(
        lambda net, x: net.last(F.relu(net.both(F.relu(net.a(x)), F.relu(net.b(x))))),
        a=nn.Linear(16, 32),
        b=nn.Linear(16, 32),
        both=nn.Bilinear(32, 32, 32),
        last=nn.Linear(32, 3),
    )
    assert share_left(net, tokens()) < 0.15


STAYS = {
    "spectral norm": (nn.utils.parametrizations.spectral_norm(conv(32, 32)), "mv"),
    "older spectral norm": (nn.utils.spectral_norm(conv(32, 32)), "mv"),
    "orthogonal": (nn.utils.parametrizations.orthogonal(nn.Conv2d(32, 32, 1)), "linalg_matrix_exp"),
}


@pytest.mark.parametrize("name", STAYS)
def test_weights_that_cannot_be_sliced_alike_stay_and_the_rest_slims(name):
    layer, operation = STAYS[name]
    net = between_convolutions(lambda net, x: F.relu(net.stays(x)), stays=layer)
    layout = follow(net, image())
    assert f": {operation} in " in layout.kept["stays"]
    assert {group.name for group in layout.groups} == {"second"}
    assert share_left(net, image()) < 0.9


@pytest.mark.parametrize(
    "weight",
    [
        lambda net, x: net.weight[:32],
        lambda net, x: net.hyper(x.mean((0, 1))).view(32, 32),
        lambda net, x: net.weight[:32].softmax(0),
        lambda net, x: (net.weight[:32, :, None] * net.weight[None, :32].transpose(1, 2)).sum(1),
    ],
)
def test_weights_that_are_cut_by_literals_or_made_of_activations_stay(weight):
    def forward(net, x):
        return net.last(F.relu(net.second(F.relu(F.linear(net.first(x), weight(net, x))))))

    layers = {"first": nn.Linear(16, 32), "second": nn.Linear(32, 32), "last": nn.Linear(32, 3)}
    net = Net(forward, **layers, weight=parameter(64, 32), hyper=nn.Linear(16, 32 * 32))
    assert "second" in {group.name for group in follow(net, tokens()).groups}
    assert share_left(net, tokens()) < 1.0


def test_nothing_but_a_made_up_weight_is_refused_by_name():
    def forward(net, x):
        return net.last(F.linear(net.first(x), net.hyper(x.mean((0, 1))).view(32, 32)))

    net = Net(forward, first=nn.Linear(16, 32), hyper=nn.Linear(16, 32 * 32), last=nn.Linear(32, 3))
    with pytest.raises(FlowError, match="'first': .*linear in the network's own forward"):
        follow(net, tokens())


@pytest.mark.parametrize(("output", "shape"), [("btnd,hnd->bth", (32, 4, 8)), ("btnd,ndh->bth", (4, 8, 32))])
@pytest.mark.parametrize("heads", [1, 3])
def test_weights_with_an_axis_of_heads_and_one_of_their_channels(output, shape, heads):
    """As XLNet has them: whole heads slim, whichever of both axes torch puts first in its products."""

    def middle(net, x):
        query, key, value = (torch.einsum("bth,hnd->btnd", x, weight) for weight in (net.query, net.key, net.value))
        attended = torch.einsum("btnd,bsnd->bnts", query + net.bias, key).softmax(-1)
        return torch.einsum(output, torch.einsum("bnts,bsnd->btnd", attended, value), net.out)

    projections = {name: parameter(32, 4, 8) for name in ("query", "key", "value")}
    net = between_linears(middle, **projections, bias=parameter(4, 8), out=parameter(*shape))
    dense, x = copy.deepcopy(net), tokens()
    assert share_left(net, x) < 0.3
    units = [group.units for group in net.slim.layout.groups]
    plan = slim.WidthPlan([heads if count == 4 else count // (2 + i) for i, count in enumerate(units)])
    slim.set_width(net, plan)
    spoilt = copy.deepcopy(net)
    spoil(spoilt, plan)
    dense.load_state_dict({name: value.nan_to_num(0.0) for name, value in spoilt.state_dict().items()})
    with torch.no_grad():
        same([net(x)], [dense(x)])


class Ahead(nn.Conv2d):
    """Its kernel sees what came before alone (PixelCNN, van den Oord et al. 2016): forward overwrites the rest."""

    def __init__(self, channels: int, write: str) -> None:
        super().__init__(channels, channels, 3, padding=1)
        self.write = write
        self.register_buffer(
            "mask", torch.tensor([1.0] * 4 + [0.0] * 5).view(1, 1, 3, 3).repeat(channels, channels, 1, 1)
        )

    def forward(self, x):
        if self.write != "data":
            with torch.no_grad():
                if self.write == "a part first":
                    self.weight[:, :, 0].mul_(self.mask[:, :, 0])
                self.weight.mul_(self.mask)
        else:
            self.weight.data *= self.mask
        return super().forward(x)


@pytest.mark.parametrize("write", ["in place", "data", "a part first"])
def test_kernels_under_a_mask_that_forward_writes_into_them(write):
    net = between_convolutions(lambda net, x: net.ahead(x), ahead=Ahead(32, write))
    before = net.ahead.weight.detach().clone()
    layout = follow(net, image())
    assert torch.equal(net.ahead.weight, before)
    assert set(layout.kept) == {"last"}
    assert list(layout.axes["ahead.mask"]) == [0, 1]
    assert share_left(net, image()) < 0.3
