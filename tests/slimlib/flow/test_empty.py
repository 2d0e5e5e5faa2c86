"""Tensors without elements, as of experts that no token reaches, still have channels."""

import pytest
import torch
from torch import nn

from tests.slimlib.flow.judging import Net, share_left, tokens


def by_masks(net, y, chosen):
    out = torch.zeros_like(y)
    for number, expert in enumerate(net.experts):
        out[chosen == number] = expert(y[chosen == number])
    return out


def by_places(net, y, chosen):
    out = torch.zeros_like(y)
    for number, expert in enumerate(net.experts):
        (places,) = torch.where(chosen == number)
        out = out.index_add(0, places, expert(y.index_select(0, places)))
    return out


def by_parts(net, y, chosen):
    parts = y[chosen.argsort()].split(torch.bincount(chosen, minlength=len(net.experts)).tolist())
    return torch.cat([expert(part) for expert, part in zip(net.experts, parts, strict=True)])[
        chosen.argsort().argsort()
    ]


@pytest.mark.parametrize("share_out", [by_masks, by_places, by_parts])
def test_experts_that_no_token_reaches_slim_with_the_others(share_out):
    torch.manual_seed(0)
    experts = [nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)) for _ in range(4)]

    def forward(net, x):
        chosen = (x[:, 0] > 0).long() * 3  # those between are idle
        return net.last(share_out(net, net.first(x).relu(), chosen).relu())

    net = Net(forward, first=nn.Linear(8, 32), last=nn.Linear(32, 3), experts=nn.ModuleList(experts))
    assert share_left(net, torch.randn(6, 8)) < 0.3
    x = torch.randn(40, 8)
    x[:, 0] = torch.linspace(-1, 1, 40)
    assert net(x).shape == (40, 3)


def attended(net, y):
    q, k, v = net.inner(y).view(*y.shape[:2], 3, 4, y.shape[2] // 4).permute(2, 0, 3, 1, 4)
    return net.outer((torch.softmax(q @ k.mT, -1) @ v).transpose(1, 2).reshape(y.shape))


def test_attention_over_nothing_that_came_before():
    torch.manual_seed(0)

    def forward(net, x):
        y = net.first(x)
        return net.last(torch.cat([attended(net, y[:, :0]), attended(net, y)], 1))

    layers = {"inner": nn.Linear(32, 96), "outer": nn.Linear(32, 32)}
    assert share_left(Net(forward, first=nn.Linear(16, 32), last=nn.Linear(32, 3), **layers), tokens()) < 0.4


def test_a_cache_that_begins_as_an_empty_vector():
    """As transformers begin the keys of a layer: cat takes it beside tensors of any shape."""
    torch.manual_seed(0)

    def forward(net, x):
        y = net.first(x)
        return net.last(torch.cat([torch.tensor([]), net.inner(y).relu(), net.outer(y)], -2))

    layers = {"inner": nn.Linear(32, 24), "outer": nn.Linear(32, 24)}
    assert share_left(Net(forward, first=nn.Linear(16, 32), last=nn.Linear(24, 3), **layers), tokens()) < 0.4
