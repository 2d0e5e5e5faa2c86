"""Heads that are cut apart by a split, and laid side by side along the batch, or attended to one by one."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import slimlib as slim


class Attention(nn.Module):
    """Of tokens [N, T, C]; the subclasses differ in how they cut into heads, and of what number the scale is.

    A scale that is no power of the number of channels is right for heads of one size alone.
    """

    def __init__(
        self, trunk: int, inner: int, heads: int, full: int, scale: Callable[[float], float] = math.log
    ) -> None:
        super().__init__()
        self.scale = scale
        self.inner, self.heads, self.size = full, heads, full // 4  # of the full network, where forward holds on to it
        self.q, self.k, self.v = (nn.Linear(trunk, inner) for _ in range(3))
        self.leave = nn.Linear(inner, trunk)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, number: float) -> Tensor:
        return (q @ k.transpose(-1, -2) / self.scale(number)).softmax(-1) @ v


class AlongTheBatch(Attention):
    """The scale is of all heads together: a part may be no smaller (Set Transformer)."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.cat(layer(x).split(self.inner // 4, 2), 0) for layer in (self.q, self.k, self.v))
        made = (q + self.attend(q, k, v, self.inner)).split(len(x), 0)
        return x + self.leave(torch.cat(made, 2))


class InChunks(Attention):
    """The scale is that of a part, however large."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.cat(layer(x).chunk(self.heads, 2), 0) for layer in (self.q, self.k, self.v))
        made = self.attend(q, k, v, q.shape[-1])
        return x + self.leave(torch.cat(made.chunk(self.heads, 0), 2))


class Stacked(Attention):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.stack(layer(x).split(self.size, -1), 1) for layer in (self.q, self.k, self.v))
        return x + self.leave(self.attend(q, k, v, self.size).transpose(1, 2).flatten(2))


class OneByOne(Attention):
    def forward(self, x: Tensor) -> Tensor:
        heads = zip(*(layer(x).split(self.size, -1) for layer in (self.q, self.k, self.v)), strict=True)
        return x + self.leave(torch.cat([self.attend(q, k, v, self.size) for q, k, v in heads], -1))


class Net(nn.Module):
    def __init__(self, kind: type[Attention], trunk: int = 32, inner: int = 32, heads: int = 4, **options) -> None:
        super().__init__()
        self.enter = nn.Linear(5, trunk)
        options = {"full": 32} | options
        blocks = (kind(trunk, inner, heads, **options) for _ in range(2))
        self.blocks = nn.Sequential(next(blocks), nn.LayerNorm(trunk), next(blocks))
        self.leave = nn.Linear(trunk, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.blocks(self.enter(x)))


KINDS = [AlongTheBatch, InChunks, Stacked, OneByOne]


@pytest.mark.parametrize("kind", KINDS)
def test_whole_heads_slim_where_a_split_cuts_them_apart(kind):
    torch.manual_seed(0)
    dense, x = Net(kind).eval(), torch.randn(2, 7, 5)
    net = slim.convert(copy.deepcopy(dense), x)
    assert set(net.slim.layout.kept) == {"leave"}
    for heads in (1, 2, 3):
        plan = slim.WidthPlan([{4: heads, 32: 16}[group.units] for group in net.slim.layout.groups])
        small, twin = slim.extract(net, plan, x), Net(kind, 16, 8 * heads, heads).eval()
        assert [p.shape for p in small.parameters()] == [p.shape for p in twin.parameters()]
        twin.load_state_dict(small.state_dict())
        with slim.at_width(net, plan), torch.no_grad():
            assert torch.allclose(net(x), twin(x), atol=1e-5)
    assert torch.equal(net(x), dense(x))


class Named(Attention):
    """Its number of heads is written down: each keeps its place, and shrinks."""

    def forward(self, x: Tensor) -> Tensor:
        (a, b), (c, d), (e, f) = (layer(x).chunk(2, -1) for layer in (self.q, self.k, self.v))
        return x + self.leave(torch.cat([self.attend(a, c, e, 4.0), self.attend(b, d, f, 4.0)], -1))


def test_parts_that_forward_names_shrink_alike():
    torch.manual_seed(0)
    net, x = Net(Named).eval(), torch.randn(2, 7, 5)
    slim.convert(net, x)
    assert {group.units for group in net.slim.layout.groups} == {32, 16}
    small = slim.extract(net, 0.5, x)
    assert small.blocks[0].q.weight.shape == (16, 16)


class InALoop(Attention):
    """Each head is a slice of a size that stays, at places that a loop counts."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, made = self.q(x), self.k(x), self.v(x), []
        for i in range(self.heads):
            head = slice(i * self.size, (i + 1) * self.size)
            made.append(self.attend(q[..., head], k[..., head], v[..., head], self.size))
        return x + self.leave(torch.cat(made, -1))


def test_heads_that_are_slices_stay_and_the_trunk_around_them_slims():
    torch.manual_seed(0)
    dense, x = Net(InALoop).eval(), torch.randn(2, 7, 5)
    net = slim.convert(copy.deepcopy(dense), x)
    assert set(net.slim.layout.kept) == {"leave", *(f"blocks.{i}.{layer}" for i in (0, 2) for layer in "qkv")}
    small, twin = slim.extract(net, 0.5, x), Net(InALoop, 16).eval()
    assert [p.shape for p in small.parameters()] == [p.shape for p in twin.parameters()]
    twin.load_state_dict(small.state_dict())
    slim.set_width(net, 0.5)
    assert torch.allclose(net(x), twin(x), atol=1e-5)


@pytest.mark.parametrize("kind", [*KINDS, InALoop])
def test_each_head_shrinks_where_its_scale_is_of_its_channels(kind):
    torch.manual_seed(0)
    dense, x = Net(kind, scale=math.sqrt).eval(), torch.randn(2, 7, 5)
    net = slim.convert(copy.deepcopy(dense), x)
    assert set(net.slim.layout.kept) == {"leave"}
    for size in (1, 4, 6):
        plan = slim.WidthPlan([{8: size, 32: 16}[group.units] for group in net.slim.layout.groups])
        small = slim.extract(net, plan, x)
        trunk = len(small.enter.weight)  # in proportion, where heads of a size that is held must fit it
        twin = Net(kind, trunk, 4 * size, full=4 * size, scale=math.sqrt).eval()
        assert [p.shape for p in small.parameters()] == [p.shape for p in twin.parameters()]
        twin.load_state_dict(small.state_dict())
        with slim.at_width(net, plan), torch.no_grad():
            assert torch.allclose(net(x), twin(x), atol=1e-5)
    assert torch.equal(net(x), dense(x))
