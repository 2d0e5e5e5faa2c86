"""Stacked branches, splits and slices along the channels, and writes by index."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slimlib.core.layout import Segment
from slimlib.flow import follow
from tests.slimlib.flow.judging import Net, between_convolutions, between_linears, conv, image, share_left, tokens


def of_two(join):
    return Net(lambda net, x: net.last(join(net, net.a(x), net.b(x))), a=conv(3, 32), b=conv(3, 32), last=conv(32, 3))


def selective(net, a, b):
    """SKNet: Li et al. 2019, sec. 3.1."""
    both = torch.stack([a, b], 1)
    scores = net.expand(F.relu(net.squeeze(both.sum(1).mean((2, 3)))))
    return (both * scores.view(len(a), 2, -1).softmax(1)[..., None, None]).sum(1)


JOINS = {
    "sum": lambda net, a, b: torch.stack([a, b]).sum(0),
    "mean of three": lambda net, a, b: torch.stack([a, b, a * b]).mean(0),
    "largest": lambda net, a, b: torch.stack([a, b], 1).amax(1),
    "largest with its place": lambda net, a, b: torch.stack([a, b], -1).max(-1)[0],
    "product": lambda net, a, b: torch.stack([a, b], 2).prod(2),
    "taken apart": lambda net, a, b: torch.mul(*torch.stack([a, b]).unbind(0)),
    "concatenated and viewed": lambda net, a, b: torch.cat([a, b], 1).view(2, 2, -1, 8, 8).sum(1),
    "weighted by einsum": lambda net, a, b: torch.einsum("kbchw,kb->bchw", torch.stack([a, b]), torch.ones(2, 2)),
    "softmax over branches": lambda net, a, b: (torch.stack([a, b]).softmax(0) * torch.stack([a, b])).sum(0),
}


@pytest.mark.parametrize("name", JOINS)
def test_stacked_branches_are_tied(name):
    assert share_left(of_two(JOINS[name]), image()) < 0.55


def test_selective_kernels():
    net = of_two(selective)
    net.squeeze, net.expand = nn.Linear(32, 16), nn.Linear(16, 64)
    assert share_left(net, image()) < 0.5


def test_maxout():
    net = Net(lambda net, x: net.last(net.a(x).view(2, -1, 2, 8, 8).amax(2)), a=conv(3, 64), last=conv(32, 3))
    assert share_left(net, image()) < 0.55


CUTS = {
    "chunks": lambda net, x: torch.cat([part.relu() for part in x.chunk(4, 1)], 1),
    "halves by slices": lambda net, x: torch.cat([x[:, : x.shape[1] // 2].tanh(), x[:, x.shape[1] // 2 :]], 1),
    "a quarter by split": lambda net, x: torch.cat(
        [part.tanh() for part in x.split([x.shape[1] // 4, x.shape[1] - x.shape[1] // 4], 1)], 1
    ),
    "a quarter by narrow": lambda net, x: torch.cat(
        [x.narrow(1, 0, x.shape[1] // 4).tanh(), x.narrow(1, x.shape[1] // 4, x.shape[1] * 3 // 4)], 1
    ),
    "every other one": lambda net, x: torch.cat([x[:, ::2], x[:, ::2] * 2], 1),
}


@pytest.mark.parametrize("name", CUTS)
def test_parts_slim_in_proportion(name):
    assert share_left(between_convolutions(CUTS[name]), image()) < 0.35


def test_a_unit_has_channels_of_every_part_in_proportion():
    def partial(net, x):
        """FasterNet: Chen et al. 2023, sec. 3.2."""
        low, rest = x.split([x.shape[1] // 4, x.shape[1] - x.shape[1] // 4], 1)
        return torch.cat([net.quarter(low), rest], 1)

    net = between_convolutions(partial, quarter=conv(8, 8))
    layout = follow(net, image())
    assert layout.axes["first.weight"][0] == (Segment(0, 8), Segment(0, 8, 3))
    assert share_left(net, image()) < 0.35


LITERAL = {
    "split": lambda net, x: torch.cat([part.relu() for part in x.split(16, 1)], 1),
    "split in a list": lambda net, x: torch.cat([part.relu() for part in x.split([16, 16], 1)], 1),
    "unequal split": lambda net, x: torch.cat([part.relu() for part in x.split([8, 24], 1)], 1),
    "slices": lambda net, x: torch.cat([x[:, :16].relu(), x[:, 16:]], 1),
    "flipped": lambda net, x: x.flip(1),
    "rolled": lambda net, x: x.roll(1, 1),
    "largest four": lambda net, x: x * (x >= x.topk(4, 1)[0][:, -1:]),
    "softmax": lambda net, x: x.softmax(1),
    "transform": lambda net, x: torch.fft.fft(x, dim=1).real,
    "moved in parts": lambda net, x: torch.cat([x[:, : x.shape[1] // 8].roll(1, 2), x[:, x.shape[1] // 8 :]], 1),
}


@pytest.mark.parametrize("name", LITERAL)
def test_what_cannot_shrink_stays_and_the_rest_slims(name):
    net = between_convolutions(LITERAL[name])
    groups = {group.name for group in follow(net, image()).groups}
    assert "second" in groups
    assert share_left(net, image()) < 0.8


def test_one_channel_that_is_picked_always_stays():
    net = between_convolutions(lambda net, x: x * x[:, :1].sigmoid() * x[:, -1:].sigmoid())
    layout = follow(net, image())
    assert [(s.group, s.units) for s in layout.axes["first.weight"][0]] == [(None, 1), (0, 30), (None, 1)]
    assert share_left(net, image()) < 0.4


def rows(x):
    return torch.zeros(3, x.shape[-1], dtype=x.dtype)


INDEX = torch.tensor([0, 0, 1, 2])
WRITES = {
    "index_add": lambda net, x: rows(x).index_add(0, INDEX, x),
    "index_add in place": lambda net, x: rows(x).index_add_(0, INDEX, x),
    "scatter_add": lambda net, x: rows(x).scatter_add(0, INDEX[:, None].expand_as(x), x),
    "scatter_reduce": lambda net, x: rows(x).scatter_reduce(0, INDEX[:, None].expand_as(x), x, "mean"),
    "index_put": lambda net, x: rows(x).index_put((INDEX,), x, accumulate=True),
    "differences along edges": lambda net, x: x[INDEX] - x[INDEX.flip(0)],
    "gathered": lambda net, x: x.gather(0, INDEX[:, None].expand_as(x)),
    "sparse product": lambda net, x: torch.sparse.mm(torch.eye(4, dtype=x.dtype).to_sparse(), x),
    "product of neighbours": lambda net, x: net.adjacent @ x,
    "of themselves": lambda net, x: (x @ x.t()).softmax(-1) @ x,
}


@pytest.mark.parametrize("name", WRITES)
def test_messages_between_rows(name):
    net = between_linears(WRITES[name], adjacent=torch.eye(4))
    assert share_left(net, torch.randn(4, 16)) < 0.4


def test_a_sparse_buffer():
    net = between_linears(lambda net, x: net.adjacent @ x, adjacent=torch.eye(4).to_sparse())
    assert share_left(net, torch.randn(4, 16)) < 0.4


def test_places_of_tokens_are_no_channels():
    net = between_linears(
        lambda net, x: torch.cat([net.token.expand(len(x), -1, -1), x], 1)[:, 1:],
        token=nn.Parameter(torch.ones(1, 1, 32)),
    )
    assert share_left(net, tokens()) < 0.4
