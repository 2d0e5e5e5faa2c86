"""Whole heads slim, and with them the trunk: at half width, the dense network with half of both."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import slimlib as slim
from tests.networks_of_attention import BLOCKS, Tokens
from tests.slimlib.flow.judging import (
    Net,
    between_convolutions,
    between_linears,
    conv,
    image,
    share_left,
    share_left_as_twin,
)


def tokens(batch=2):
    return torch.randn(batch, 8, 16, generator=torch.Generator().manual_seed(0))


def carry(full, twin, parts):
    """Give the twin the leading part of every axis, or of each of the parts that an axis holds."""
    state = full.state_dict()
    for name, tensor in twin.state_dict().items():
        value = state[name]
        own = parts.get(name.split(".", 2)[2], {}) if name.startswith("blocks.") else {}
        for dim, size in enumerate(tensor.shape):
            shares = own.get(dim, 1)
            shares = (1,) * shares if isinstance(shares, int) else shares
            channels = value.shape[dim]
            pieces = torch.arange(channels).split([channels * share // sum(shares) for share in shares])
            value = value.index_select(dim, torch.cat([piece[: len(piece) * size // channels] for piece in pieces]))
        tensor.copy_(value)
    return twin


@pytest.mark.parametrize("name", BLOCKS)
def test_half_width_equals_the_dense_network_of_half_the_heads(name):
    torch.manual_seed(0)
    block, parts = BLOCKS[name]
    dense, x = Tokens(block).eval(), tokens()
    twin = carry(dense, Tokens(block, trunk=16, heads=2).eval(), parts)
    full = dense(x)
    net = slim.convert(copy.deepcopy(dense), x)
    assert torch.equal(net(x), full)
    of_each_head = "gate" if name == "gated by heads" else "q_norm"
    assert set(net.slim.layout.kept) <= {"leave", f"blocks.0.{of_each_head}", f"blocks.1.{of_each_head}"}
    slim.set_width(net, 0.5)
    assert torch.allclose(net(x), twin(x), atol=1e-5)
    small = slim.extract(net, 0.5)
    assert [p.shape for p in small.parameters()] == [p.shape for p in twin.parameters()]
    assert torch.allclose(small(x), twin(x), atol=1e-5)
    slim.set_width(net, 1.0)
    assert torch.equal(net(x), full)


def test_a_part_that_several_modules_share_holds_numbers():
    torch.manual_seed(0)
    dense, x = Tokens(BLOCKS["biased by a part"][0]).eval(), tokens()
    dense.blocks[1].distances = dense.blocks[0].distances
    full = dense(x)
    net = slim.convert(copy.deepcopy(dense), x)
    assert torch.equal(net(x), full)
    assert "blocks.0.qkv" in {layer for group in net.slim.layout.groups for layer in group.layers}


class Queried(nn.Module):
    """Learned queries ask the pixels of an image, as in DETR."""

    def __init__(self, trunk: int = 32, heads: int = 4, hidden: int = 64, *, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.enter, self.queries = nn.Linear(8, trunk), nn.Parameter(torch.randn(5, trunk))
        self.transformer = nn.Transformer(trunk, heads, 1, 1, hidden, batch_first=batch_first)
        self.leave = nn.Linear(trunk, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.batch_first:
            return self.leave(self.transformer(self.enter(x), self.queries.unsqueeze(0).expand(len(x), -1, -1)))
        queries = self.queries.unsqueeze(1).repeat(1, len(x), 1)
        return self.leave(self.transformer(self.enter(x).transpose(0, 1), queries)).transpose(0, 1)


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_transformer_of_torch_slims_with_its_learned_queries(batch_first):
    torch.manual_seed(0)
    dense, x = Queried(batch_first=batch_first).eval(), torch.randn(2, 7, 8)
    twin = Queried(16, 2, 24, batch_first=batch_first).eval()
    net = slim.convert(copy.deepcopy(dense), x)
    assert set(net.slim.layout.kept) == {"leave"}
    plan = slim.WidthPlan([{4: 2, 64: 24}[group.units] for group in net.slim.layout.groups])
    small = slim.extract(net, plan)
    assert [p.shape for p in small.parameters()] == [p.shape for p in twin.parameters()]
    twin.load_state_dict(small.state_dict())
    with slim.at_width(net, plan), torch.no_grad():
        assert torch.allclose(net(x), twin(x), atol=1e-5)
    assert torch.equal(net(x), dense(x))


class Translating(nn.Module):
    """Tokens come sequence first, and 0 is padding: its mask is repeated for each head."""

    def __init__(self, trunk: int = 32, heads: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(20, trunk), nn.Embedding(20, trunk)
        self.transformer = nn.Transformer(trunk, heads, 1, 1, hidden)
        self.leave = nn.Linear(trunk, 20)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        padding = {"src_key_padding_mask": (source == 0).t(), "tgt_key_padding_mask": (target == 0).t()}
        padding |= {"memory_key_padding_mask": padding["src_key_padding_mask"]}
        ahead = nn.Transformer.generate_square_subsequent_mask(len(target), dtype=self.leave.weight.dtype)
        return self.leave(self.transformer(self.source(source), self.target(target), tgt_mask=ahead, **padding))


def test_masks_of_tokens_are_no_channels():
    torch.manual_seed(0)
    source, target = torch.randint(1, 20, (7, 2)), torch.randint(1, 20, (6, 2))
    source[5:, 1] = target[4:, 0] = 0
    net = Translating().eval()
    assert share_left(net, (source, target)) < 0.35
    assert set(net.slim.layout.kept) == {"leave"}
    assert [p.shape for p in slim.extract(net, 0.5).parameters()] == [
        p.shape for p in Translating(16, 2, 32).parameters()
    ]


class OfNeighbours(nn.Module):
    """Attention over a graph, with a vector of its own for each head."""

    def __init__(self, heads: int = 4, size: int = 8) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.enter = nn.Parameter(torch.randn(6, heads * size))
        self.scores = nn.Parameter(torch.randn(heads, 2 * size, 1))
        self.leave = nn.Linear(heads * size, 3)

    def forward(self, x: Tensor, near: Tensor) -> Tensor:
        h = (x @ self.enter).view(len(x), self.heads, self.size).permute(1, 0, 2)
        scores = h @ self.scores[:, : self.size] + (h @ self.scores[:, self.size :]).mT
        h = torch.where(near, scores, -9e9 * torch.ones_like(scores)).softmax(-1) @ h
        return self.leave(h.permute(1, 0, 2).reshape(len(x), -1))


@pytest.mark.parametrize("heads", [1, 2])
def test_one_head_that_is_left_may_be_multiplied_in_another_way(heads):
    torch.manual_seed(0)
    dense, x = OfNeighbours(), (torch.randn(5, 6), torch.rand(5, 5) > 0.4)
    net, twin = slim.convert(copy.deepcopy(dense), x), OfNeighbours(heads)
    small = slim.extract(net, heads / 4, x)
    assert [p.shape for p in small.parameters()] == [p.shape for p in twin.parameters()]
    twin.load_state_dict(small.state_dict())
    with slim.at_width(net, heads / 4):
        assert torch.allclose(net(*x), twin(*x), atol=1e-5)
    assert torch.equal(net(*x), dense(*x))


class SharedKeys(nn.Module):
    """One key and value for all heads (Shazeer 2019), which no dimension of theirs tells."""

    def __init__(self, trunk: int = 32, heads: int = 4, size: int = 8) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.q, self.kv, self.leave = (
            nn.Linear(trunk, heads * size),
            nn.Linear(trunk, 16),
            nn.Linear(heads * size, trunk),
        )

    def forward(self, x: Tensor) -> Tensor:  # [N, T, C]
        q, (k, v) = self.q(x).unflatten(-1, (self.heads, self.size)).transpose(1, 2), self.kv(x).split(8, -1)
        weights = (torch.einsum("nhid,njd->nhij", q, k) * self.size**-0.5).softmax(-1)
        return x + self.leave(torch.einsum("nhij,njd->nhid", weights, v).transpose(1, 2).flatten(2))


class Relative(SharedKeys):
    """Keys and values of distances, the same for all heads and images (Shaw et al. 2018, eq. 3 and 4)."""

    def __init__(self, trunk: int = 32, heads: int = 4, size: int = 8) -> None:
        super().__init__(trunk, heads, size)
        del self.kv
        self.of_keys, self.of_values = nn.Embedding(9, size), nn.Embedding(9, size)

    def forward(self, x: Tensor) -> Tensor:  # [N, T, C]
        n, t = x.shape[:2]
        apart = (torch.arange(t)[None] - torch.arange(t)[:, None]).clamp(-4, 4) + 4
        q = self.q(x).view(n, t, self.heads, self.size).transpose(1, 2)
        by_token = q.permute(2, 0, 1, 3).reshape(t, n * self.heads, self.size) @ self.of_keys(apart).mT
        weights = by_token.transpose(0, 1).reshape(n, self.heads, t, t).softmax(-1)
        by_token = weights.permute(2, 0, 1, 3).reshape(t, n * self.heads, t) @ self.of_values(apart)
        values = weights @ q + by_token.transpose(0, 1).reshape(n, self.heads, t, self.size)
        return x + self.leave(values.transpose(1, 2).reshape(n, t, -1))


@pytest.mark.parametrize("kind", [SharedKeys, Relative])
def test_heads_slim_that_share_what_they_are_multiplied_with(kind):
    def built(trunk, heads):
        return nn.Sequential(nn.Linear(16, trunk), kind(trunk, heads), kind(trunk, heads), nn.Linear(trunk, 3)).eval()

    torch.manual_seed(0)
    dense, x = built(32, 4), tokens()
    net = slim.convert(copy.deepcopy(dense), x)
    assert torch.equal(net(x), dense(x))
    for heads in (1, 3):
        plan = slim.WidthPlan([{4: heads, 32: 16}[group.units] for group in net.slim.layout.groups])
        small, twin = slim.extract(net, plan, x), built(16, heads)
        assert [p.shape for p in small.parameters()] == [p.shape for p in twin.parameters()]
        twin.load_state_dict(small.state_dict())
        with slim.at_width(net, plan), torch.no_grad():
            assert torch.allclose(net(x), twin(x), atol=1e-5)


class Conditioned(nn.Module):
    """A block of DiT: shifts, scales and gates come from a vector, heads are an attribute, `C // heads` is computed."""

    def __init__(self, trunk: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(trunk, elementwise_affine=False)
        self.condition = nn.Linear(trunk, 3 * trunk)
        self.qkv, self.proj = nn.Linear(trunk, 3 * trunk), nn.Linear(trunk, trunk)
        self.hidden = nn.Sequential(nn.Linear(trunk, 64), nn.ReLU(), nn.Linear(64, trunk))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # [N, T, C], [N, C]
        shift, scale, gate = self.condition(condition).unsqueeze(1).chunk(3, 2)
        n, t, c = x.shape
        qkv = self.qkv(self.norm(x) * (1 + scale) + shift).reshape(n, t, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        made = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c)
        x = x + gate * self.proj(made)
        return x + self.hidden(x)


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(16, 32), nn.Linear(32, 3)
        self.condition = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32))
        self.blocks = nn.ModuleList(Conditioned() for _ in range(3))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x, condition = self.first(x), self.condition(condition)
        for block in self.blocks:
            x = block(x, condition)
        return self.head(x)


def test_blocks_of_which_the_first_agree_by_chance():
    """In the first plan that is proved the trunk and the heads of one block are halved, those of another are not."""
    torch.manual_seed(0)
    assert share_left(Conditional(), (tokens(), torch.randn(2, 8))) < 0.33


def test_pooled_by_the_maps_of_each_class():
    """OCRNet: what each class sees, [N, K, C], is taken for an image of C channels; the trunk slims, classes stay."""

    def middle(net, x):
        maps = net.classes(x).flatten(2)
        regions = (maps.softmax(-1) @ x.flatten(2).transpose(1, 2)).transpose(1, 2)
        q, k, v = net.q(x).flatten(2).transpose(1, 2), net.k(regions), net.v(regions)
        seen = (q @ k * 16**-0.5).softmax(-1) @ v.transpose(1, 2)
        return torch.cat([net.up(seen.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])), x], 1)

    layers = {"classes": conv(32, 5, 1), "q": conv(32, 16, 1), "k": nn.Conv1d(32, 16, 1), "v": nn.Conv1d(32, 16, 1)}
    net = between_convolutions(middle, **layers, up=conv(16, 32, 1))
    net.second = conv(64, 32)
    assert share_left(net, image()) < 0.36
    assert set(net.slim.layout.kept) == {"classes", "last"}


def test_a_kernel_of_attention_that_forward_asks_for():
    def middle(net, x):
        q, k, v = net.qkv(x).unflatten(-1, (3, -1, 8)).permute(2, 0, 3, 1, 4)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return net.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    net = between_linears(middle, qkv=nn.Linear(32, 96), out=nn.Linear(32, 32))
    assert share_left(net, tokens()) < 0.36


class Rotated(nn.Module):
    """Heads as an attribute, and positions by rotations that are written into memory of any content (Wan)."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qk, self.back = 4, nn.Linear(32, 32), nn.Linear(32, 32)

    def rotate(self, x: Tensor) -> Tensor:  # [N, T, H, D]
        angle = torch.arange(x.shape[1]).view(1, -1, 1, 1) / 10 ** torch.arange(4)
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        made = torch.empty_like(x)
        made[..., 0::2], made[..., 1::2] = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
        return made.type_as(x)

    def forward(self, x: Tensor) -> Tensor:  # [N, T, C]
        q = self.rotate(self.qk(x).unflatten(2, (self.heads, -1))).transpose(1, 2)
        return x + self.back(nn.functional.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2))


def test_rotations_that_are_written_into_new_memory():
    torch.manual_seed(0)
    assert share_left(between_linears(lambda net, x: net.block(x), block=Rotated()), tokens()) < 0.36


SCALES = {
    "after the product": lambda q, k: q @ k.mT * q.shape[-1] ** -0.5,
    "a divisor": lambda q, k: torch.einsum("bid,bjd->bij", q, k) / math.sqrt(k.size(-1)),
    "a cast between": lambda q, k: torch.bmm(q, k.transpose(1, 2)).float() * int(q.size(2)) ** -0.5,
}


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_that_is_read_off_the_queries_is_of_those_that_are_active(name):
    def forward(net, x):
        x = net.first(x)
        q, k, v = net.qkv(x).view(*x.shape[:2], 3, -1).unbind(2)
        return net.last(x + net.out(SCALES[name](q, k).softmax(-1) @ v))

    def make(channels):
        qkv, out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        return Net(forward, first=nn.Linear(16, channels), qkv=qkv, out=out, last=nn.Linear(channels, 3))

    assert share_left_as_twin(make, tokens()) < 0.35


def test_a_scale_that_is_read_off_an_image_is_of_its_active_channels():
    """The attention of VQGAN."""

    def forward(net, x):
        x = net.first(x)
        q, k, v = (layer(x).flatten(2) for layer in (net.q, net.k, net.v))
        scores = torch.bmm(q.permute(0, 2, 1), k) * int(x.shape[1]) ** -0.5
        return net.last(x + net.out(torch.bmm(v, scores.softmax(2).permute(0, 2, 1)).reshape(x.shape)))

    def make(channels):
        inner = {name: conv(channels, channels, 1) for name in ("q", "k", "v", "out")}
        return Net(forward, first=conv(3, channels), last=conv(channels, 3), **inner)

    assert share_left_as_twin(make, image()) < 0.4
