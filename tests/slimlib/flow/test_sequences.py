"""Parts of sequence models: states of every channel, keys that all heads share, experts, masks of one precision."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
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


def latent(net, x):
    """Four heads, whose keys and values come of a few channels; the part of the keys that is rotated is one for all."""
    q = net.q(x).view(*x.shape[:2], -1, 12).transpose(1, 2)
    few, rotary = net.down(x).split([net.rank, 4], -1)
    k, v = net.up(F.layer_norm(few, (net.rank,))).view(*x.shape[:2], -1, 16).transpose(1, 2).split([8, 8], -1)
    angles = torch.polar(torch.ones(x.shape[1], 2), torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1]))
    turned = [rotated(part, angles.to(torch.complex128)) for part in (q[..., 8:], rotary[:, None])]
    q = torch.cat([q[..., :8], turned[0]], -1)
    k = torch.cat([k, turned[1].expand(-1, k.shape[1], -1, -1)], -1)
    y = F.scaled_dot_product_attention(q, k, v, scale=12**-0.5)
    return net.o(y.transpose(1, 2).reshape(*x.shape[:2], -1))


def rotated(x, angles):
    pairs = torch.view_as_complex(x.double().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * angles).flatten(-2).to(x.dtype)


def test_a_part_of_each_key_that_is_the_same_for_all_heads():
    """Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, sec. 2.1)."""
    layers = {"q": nn.Linear(32, 48), "down": nn.Linear(32, 20), "up": nn.Linear(16, 64), "o": nn.Linear(32, 32)}
    net = between_linears(latent, **layers)
    net.rank = 16
    slimming = {layer for group in follow(net, tokens()).groups for layer in group.layers}
    assert slimming == {"first", "q", "down", "up", "o", "second"}
    assert share_left(net, tokens()) < 0.35


def test_states_of_a_loop_begin_as_zeros_that_are_joined_with_the_input():
    def forward(net, x):
        state, memory = x.new_zeros(2, len(x), net.hidden)
        for step in x.unbind(1):
            i, f, o, g = net.cell(torch.cat([step, state], 1)).chunk(4, 1)
            memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
            state = o.sigmoid() * memory.tanh()
        return net.last(state)

    net = Net(forward, cell=nn.Linear(16 + 32, 4 * 32), last=nn.Linear(32, 3))
    net.hidden = 32
    assert share_left(net, tokens()) < 0.35


def windows_by_strides(net, x):
    """Longformer (Beltagy et al. 2020): every four tokens see the four before and after, in windows that overlap."""
    q, k, v = (layer(x).view(*x.shape[:2], net.heads, 8).transpose(1, 2) for layer in (net.q, net.k, net.v))
    k, v = (overlapping(F.pad(y, (0, 0, 4, 4))) for y in (k, v))
    y = F.scaled_dot_product_attention(q.unflatten(2, (-1, 4)), k, v)
    return net.o(y.flatten(2, 3).transpose(1, 2).reshape(*x.shape[:2], -1))


def overlapping(x):
    n, h, t, d = x.stride()
    return x.as_strided((*x.shape[:2], x.shape[2] // 4 - 2, 12, x.shape[3]), (n, h, 4 * t, t, d))


def test_windows_that_overlap():
    net = between_linears(windows_by_strides, **{name: nn.Linear(32, 32) for name in "qkvo"})
    net.heads = 4
    slimming = {layer for group in follow(net, tokens(8)).groups for layer in group.layers}
    assert slimming == {"first", "q", "k", "v", "o", "second"}
    assert share_left(net, tokens(8)) < 0.35


class Scaled(nn.Module):
    """Attention whose scale is computed anew in each forward, from the size of its heads."""

    def __init__(self, trunk, heads):
        super().__init__()
        self.heads, self.size = heads, trunk // heads
        self.q, self.k, self.v, self.o = (nn.Linear(trunk, trunk) for _ in range(4))

    def forward(self, x):
        q, k, v = (
            layer(x).view(*x.shape[:2], self.heads, self.size).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        y = (q @ k.transpose(-2, -1) / math.log(self.size)).softmax(-1) @ v
        return x + self.o(y.transpose(1, 2).flatten(2))


def test_what_fails_in_modules_of_one_size_is_kept_in_these_alone():
    """A first stage of one head, whose size its scale is made of (Wang et al. 2021, PVT)."""
    wider = nn.Linear(16, 32)
    net = nn.Sequential(nn.Linear(16, 16), Scaled(16, 1), wider, Scaled(32, 4), Scaled(32, 4), nn.Linear(32, 3))
    slimming = {layer for group in follow(net, tokens()).groups for layer in group.layers}
    assert {"0", "2", "3.q", "3.v", "4.q", "4.v"} <= slimming
    assert not slimming & {"1.q", "1.k"}
    assert share_left(net, tokens()) < 0.4


class Decaying(nn.Module):
    """A linear state of each head (Dao & Gu 2024, Mamba-2, eq. 6), with one B and one C for all heads of size 4."""

    def __init__(self, trunk: int = 32, heads: int = 8, state: int = 16) -> None:
        super().__init__()
        self.heads, self.inner, self.state = heads, 4 * heads, state
        self.enter, self.leave = nn.Linear(trunk, self.inner + 2 * state + heads), nn.Linear(self.inner, trunk)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        values, b, c, rates = self.enter(x).split([self.inner, self.state, self.state, self.heads], -1)
        b, c = (y.unsqueeze(2).repeat_interleave(self.heads, 2) for y in (b, c))
        kept = b * torch.sigmoid(rates)[..., None]
        states = torch.einsum("nths,nthp->nhps", kept, values.view(n, t, self.heads, 4))
        return x + self.leave(torch.einsum("nths,nhps->nthp", c, states).reshape(n, t, -1))


def states(trunk: int = 32, heads: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(16, trunk), Decaying(trunk, heads), Decaying(trunk, heads), nn.Linear(trunk, 3))


def test_heads_slim_rather_than_the_states_that_are_the_same_for_all():
    torch.manual_seed(0)
    dense, x = states().eval(), tokens(5)
    net = slim.convert(copy.deepcopy(dense), x)
    assert set(net.slim.layout.kept) == {"3"}
    for heads in (2, 5):
        plan = slim.WidthPlan([{8: heads, 32: 16}[group.units] for group in net.slim.layout.groups])
        small, twin = slim.extract(net, plan, x), states(16, heads).eval()
        assert [p.shape for p in small.parameters()] == [p.shape for p in twin.parameters()]
        twin.load_state_dict(small.state_dict())
        with slim.at_width(net, plan), torch.no_grad():
            torch.testing.assert_close(net(x), twin(x))
    assert torch.equal(net(x), dense(x))


class Sampling(nn.Module):
    """Attention to keys at places that forward draws, as in Informers (Zhou et al. 2021)."""

    def __init__(self, trunk: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.enter, self.leave = nn.Linear(16, trunk), nn.Linear(8 * heads, 3)
        self.q, self.k, self.v = (nn.Linear(trunk, 8 * heads) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        q, k, v = (f(x).view(*x.shape[:2], self.heads, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        drawn = torch.randint(x.shape[1], (3,))
        y = (q @ k[:, :, drawn].mT * 8**-0.5).softmax(-1) @ v[:, :, drawn]
        return self.leave(y.transpose(1, 2).flatten(2))


def test_places_that_forward_draws_are_the_same_in_all_runs_of_a_proof():
    torch.manual_seed(0)
    net, twin, x = Sampling().eval(), Sampling(16, 2).eval(), tokens(9)
    before = torch.get_rng_state()
    slim.convert(net, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert set(net.slim.layout.kept) == {"leave"}
    slim.set_width(net, 0.5)
    twin.load_state_dict(slim.extract(net, 0.5).state_dict())
    made = []
    for each in (net, twin):
        torch.manual_seed(1)
        made.append(each(x))
    torch.testing.assert_close(*made)
