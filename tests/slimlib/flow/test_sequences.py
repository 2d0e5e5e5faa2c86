"""Parts of sequence models: states of every channel, keys that all heads share, experts, masks of one precision."""

import torch
import torch.nn.functional as F
from torch import nn

from slimlib.flow import follow
from tests.slimlib.flow.judging import Net, between_linears, parameter, share_left, tokens


def test_in_an_outer_product_only_the_fewer_channels_stay():
    """A state of each channel, written and read by few, as selective state spaces have it (Gu & Dao 2023)."""

    def middle(net, x):
        write, read = net.both(x).chunk(2, -1)
        state = x[..., None] * write[..., None, :]  # [N, T, C, S]
        return (state @ read[..., None])[..., 0]

    net = between_linears(middle, both=nn.Linear(32, 8))
    assert set(follow(net, tokens()).kept) == {"both", "last"}
    assert share_left(net, tokens()) < 0.4


def shared_keys(net, x):
    """Four heads of queries for one of keys, which is only repeated where there are more heads than one."""
    q = net.q(x).view(*x.shape[:2], -1, 8).transpose(1, 2)
    k, v = (layer(x).view(*x.shape[:2], 1, 8).transpose(1, 2) for layer in (net.k, net.v))
    if q.shape[1] > 1:
        k, v = k.expand(-1, q.shape[1], -1, -1), v.expand(-1, q.shape[1], -1, -1)
    y = (q @ k.transpose(-1, -2) * 8**-0.5).softmax(-1) @ v
    return net.o(y.transpose(1, 2).reshape(*x.shape[:2], -1))


def test_one_head_may_take_another_way_than_several():
    layers = {"q": nn.Linear(16, 32), "k": nn.Linear(16, 8), "v": nn.Linear(16, 8), "o": nn.Linear(32, 32)}
    net = Net(
        lambda net, x: net.last(shared_keys(net, net.first(x))),
        first=nn.Linear(16, 16),
        last=nn.Linear(32, 3),
        **layers,
    )
    assert "q" in {layer for group in follow(net, tokens()).groups for layer in group.layers}
    assert share_left(net, tokens(), 0.25) < 0.5


def test_experts_that_are_multiplied_in_one_operation():
    def middle(net, x):
        rows = x.reshape(-1, x.shape[-1])
        ends = torch.tensor([4, len(rows)], dtype=torch.int32)
        y = F.silu(torch._grouped_mm(rows, net.up.transpose(1, 2), offs=ends))
        return torch._grouped_mm(y, net.down.transpose(1, 2), offs=ends).view(*x.shape[:2], -1)

    net = between_linears(middle, up=parameter(2, 64, 32), down=parameter(2, 32, 64))
    assert share_left(net, tokens()) < 0.35


def test_a_network_that_cannot_run_in_double_precision():
    def middle(net, x):
        hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
        mask = torch.zeros(5, 5).masked_fill(hidden, torch.finfo(x.dtype).min)  # too much for single precision
        return (mask.softmax(-1) @ x.float()).to(x.dtype)

    assert share_left(between_linears(middle), tokens()) < 0.4
