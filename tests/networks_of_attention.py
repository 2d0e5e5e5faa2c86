"""Attention as libraries write it: how heads are cut, where their number is held, what each head adds.

Every network takes tokens [N, T, 16] and has `trunk` channels and `heads` heads of 8; the dense network of half the
width is the same class with half the trunk and half the heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 8


class Tokens(nn.Module):
    """A trunk: a layer into it, two blocks `x + block(norm(x))` of attention, a layer out of it."""

    def __init__(self, block: type[nn.Module], trunk: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(16, trunk), nn.Linear(trunk, 3)
        self.blocks = nn.ModuleList([block(trunk, heads) for _ in range(2)])
        self.norms = nn.ModuleList([nn.LayerNorm(trunk) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:  # [N, T, 16] -> [N, T, 3]
        x = self.enter(x)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.leave(x)


def by_hand(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """q, k, v [N, H, T, D], scaled already."""
    return (q @ k.transpose(-2, -1) + bias).softmax(-1) @ v


class FusedByAttributes(nn.Module):
    """timm: one layer for q, k and v; the number of heads is an attribute, the rest is read off what arrives."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, SIZE**-0.5
        self.qkv, self.proj = nn.Linear(trunk, 3 * trunk), nn.Linear(trunk, trunk)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(by_hand(q * self.scale, k, v).transpose(1, 2).reshape(n, t, c))


class SplitBySize(nn.Module):
    """GPT-2: weights [in, out], cut by an attribute; sizes are checked."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim, self.split_size = trunk, heads, SIZE, trunk
        if self.head_dim * self.num_heads != self.embed_dim:
            raise ValueError("embed_dim must be divisible by num_heads")
        self.weight, self.bias = nn.Parameter(torch.randn(trunk, 3 * trunk) * 0.1), nn.Parameter(torch.randn(3 * trunk))
        self.project = nn.Linear(trunk, trunk)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.embed_dim:
            raise ValueError(f"expected {self.embed_dim} channels")
        shape = (*x.shape[:2], self.num_heads, self.head_dim)
        fused = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:2], 3 * self.embed_dim)
        q, k, v = (part.view(shape).transpose(1, 2) for part in fused.split(self.split_size, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).contiguous()
        return self.project(y.view(*x.shape[:2], self.embed_dim))


class Separate(nn.Module):
    """transformers: three layers, heads as they come."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        inner = heads * SIZE
        self.q, self.k, self.v, self.o = (nn.Linear(trunk, inner), nn.Linear(trunk, inner), nn.Linear(trunk, inner),
                                          nn.Linear(inner, trunk))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(*x.shape[:2], -1, SIZE).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:2], -1))


class GroupedRotary(nn.Module):
    """Llama: two heads of queries for each of keys, rotated by position; queries and keys of each head are normed."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(trunk, heads * SIZE, bias=False), nn.Linear(trunk, heads // 2 * SIZE, bias=False)
        self.v, self.o = nn.Linear(trunk, heads // 2 * SIZE, bias=False), nn.Linear(heads * SIZE, trunk, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(SIZE), nn.LayerNorm(SIZE)
        self.register_buffer("frequencies", 10.0 ** -torch.arange(0, 1, 2 / SIZE), persistent=False)

    def rotated(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * self.frequencies.to(x.dtype)
        angles = torch.cat([angles, angles], -1)
        low, high = x[..., : SIZE // 2], x[..., SIZE // 2 :]
        return x * angles.cos() + torch.cat([-high, low], -1) * angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(*x.shape[:2], -1, SIZE).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = self.rotated(self.q_norm(q)), self.rotated(self.k_norm(k))
        k, v = (y[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(*x.shape[:2], -1))


class GroupedInside(nn.Module):
    """The same keys and values for two heads, which torch repeats; queries are gated per head."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(trunk, heads * SIZE), nn.Linear(trunk, 2 * (heads // 2) * SIZE)
        self.gate, self.o = nn.Linear(trunk, heads), nn.Linear(heads * SIZE, trunk)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (-1, SIZE)).transpose(1, 2)
        k, v = (y.unflatten(-1, (-1, SIZE)).transpose(1, 2) for y in self.kv(x).chunk(2, -1))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)
        return self.o((y * self.gate(x).sigmoid()[..., None]).flatten(2))


class BiasedWindows(nn.Module):
    """Swin: a table of relative positions for each head; windows of four tokens, shifted by two."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.dim, self.num_heads = trunk, heads
        self.table = nn.Parameter(torch.randn(7, heads))
        self.register_buffer("index", torch.arange(4)[:, None] - torch.arange(4) + 3, persistent=False)
        self.qkv, self.proj = nn.Linear(trunk, 3 * trunk), nn.Linear(trunk, trunk)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        windows = x.roll(-2, 1).view(n, t // 4, 4, c).reshape(-1, 4, c)
        qkv = self.qkv(windows).reshape(-1, 4, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        bias = self.table[self.index.view(-1)].view(4, 4, -1).permute(2, 0, 1)[None]
        y = by_hand(q * (c // self.num_heads) ** -0.5, k, v, bias).transpose(1, 2).reshape(-1, 4, c)
        return self.proj(y).view(n, t, c).roll(2, 1)


class Reduced(nn.Module):
    """SegFormer: keys and values of every fourth place, by a convolution in space."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.hidden_size, self.num_attention_heads = trunk, heads
        self.attention_head_size = trunk // heads
        self.all_head_size = self.num_attention_heads * self.attention_head_size
        self.query, self.key, self.value = (nn.Linear(trunk, self.all_head_size) for _ in range(3))
        self.reduce, self.norm, self.dense = nn.Conv2d(trunk, trunk, 2, 2), nn.LayerNorm(trunk), nn.Linear(trunk, trunk)

    def heads(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.num_attention_heads, self.attention_head_size)
        return x.view(shape).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        y = self.reduce(x.permute(0, 2, 1).reshape(n, c, t // 2, 2)).reshape(n, c, -1).permute(0, 2, 1)
        y = self.norm(y)
        q, k, v = self.heads(self.query(x)), self.heads(self.key(y)), self.heads(self.value(y))
        y = by_hand(q / self.attention_head_size**0.5, k, v).permute(0, 2, 1, 3).contiguous()
        return self.dense(y.view(*y.shape[:-2], self.all_head_size))


class Talking(nn.Module):
    """CaiT: heads are mixed by layers before and after the softmax."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.before, self.after = (
            nn.Linear(trunk, 3 * trunk),
            nn.Linear(heads, heads),
            nn.Linear(heads, heads),
        )
        self.proj = nn.Linear(trunk, trunk)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = self.before((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = self.after(scores.softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ v
        return self.proj(y.transpose(1, 2).reshape(n, t, c))


class OverChannels(nn.Module):
    """XCiT: the channels of each head attend to each other, with a temperature for each head."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.temperature = nn.Parameter(torch.rand(heads, 1, 1) + 0.5)
        self.qkv, self.proj = nn.Linear(trunk, 3 * trunk), nn.Linear(trunk, trunk)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 4, 1)
        y = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1) @ v
        return self.proj(y.permute(0, 3, 1, 2).reshape(n, t, c))


class Interleaved(nn.Module):
    """GPT-NeoX: q, k and v of a head lie side by side; the first half of each head is rotated."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.head_size = SIZE
        self.query_key_value, self.dense = nn.Linear(trunk, 3 * trunk), nn.Linear(trunk, trunk)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, 3 * self.head_size)
        q, k, v = self.query_key_value(x).view(shape).transpose(1, 2).chunk(3, -1)
        angles = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * torch.ones(SIZE // 2, dtype=x.dtype)
        q = torch.cat([q[..., : SIZE // 2] * angles.cos(), q[..., SIZE // 2 :]], -1)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.dense(y.transpose(1, 2).reshape(*x.shape[:-1], -1))


class Torchs(nn.Module):
    """torch's own."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(trunk, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


class Einsum(nn.Module):
    """Heads by einsum, with their number from an object that holds the settings."""

    class Settings:
        def __init__(self, heads: int) -> None:
            self.heads, self.size = heads, SIZE

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.settings = self.Settings(heads)
        self.q, self.kv, self.o = nn.Linear(trunk, trunk), nn.Linear(trunk, 2 * trunk), nn.Linear(trunk, trunk)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], self.settings.heads, self.settings.size)
        q, (k, v) = self.q(x).view(shape), (y.view(shape) for y in self.kv(x).chunk(2, -1))
        weights = (torch.einsum("nqhd,nkhd->nhqk", q, k) / self.settings.size**0.5).softmax(-1)
        return self.o(torch.einsum("nhqk,nkhd->nqhd", weights, v).flatten(2))


class SlicedByAttributes(nn.Module):
    """Phi-3: one layer for q and its fewer k and v, which are slices of it by two numbers that must fit each other."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.heads, self.key_heads = heads, heads // 2
        self.qkv = nn.Linear(trunk, (heads + 2 * (heads // 2)) * SIZE)
        self.proj = nn.Linear(heads * SIZE, trunk)

    def forward(self, x: Tensor) -> Tensor:
        fused, shape = self.qkv(x), (*x.shape[:2], -1, SIZE)
        keys, values = self.heads * SIZE, (self.heads + self.key_heads) * SIZE
        q, k, v = fused[..., :keys], fused[..., keys:values], fused[..., values:]
        q, k, v = (y.view(shape).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.proj(y.transpose(1, 2).reshape(*x.shape[:2], -1))


class Distances(nn.Module):
    """A bias for each head from a few channels of the distance; it has no forward."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.num_heads, self.inner, self.outer = heads, nn.Linear(1, 4 * heads), nn.Linear(4 * heads, heads)

    def bias(self, length: int) -> Tensor:
        distances = torch.arange(1.0 - length, length, dtype=self.inner.weight.dtype)[:, None] / length
        table = self.outer(F.relu(self.inner(distances))).view(-1, self.num_heads)
        index = torch.arange(length)[:, None] - torch.arange(length) + length - 1
        return table[index].permute(2, 0, 1)


class BiasedByAPart(nn.Module):
    """MaxViT: a part of the module holds the number of heads, too, and the module calls its methods."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.distances = heads, Distances(heads)
        self.qkv, self.proj = nn.Linear(trunk, 3 * trunk), nn.Linear(trunk, trunk)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, self.num_heads, -1).transpose(1, 2).chunk(3, -1)
        y = by_hand(q * SIZE**-0.5, k, v, self.distances.bias(t))
        return self.proj(y.transpose(1, 2).reshape(n, t, -1))


class GroupsOfHeads(nn.Module):
    """Falcon: the queries of a group lie beside its key and value, and how many there are is a quotient of numbers."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = heads, heads // 2, SIZE
        self.fused, self.dense = nn.Linear(trunk, 2 * heads * SIZE), nn.Linear(heads * SIZE, trunk)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        fused = self.fused(x).view(n, t, -1, self.num_heads // self.num_kv_heads + 2, self.head_dim)
        q, k, v = fused[:, :, :, :-2], fused[:, :, :, [-2]], fused[:, :, :, [-1]]
        q, k, v = (y.expand(q.shape).flatten(2, 3).transpose(1, 2) for y in (q, k, v))
        q, k, v = (y.reshape(n, self.num_heads, t, self.head_dim) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).view(n, self.num_heads, t, self.head_dim)
        return self.dense(y.permute(0, 2, 1, 3).reshape(n, t, self.num_heads * self.head_dim))


class HeadsOfABatch(nn.Module):
    """Diffusion: heads are a part of the batch, and their size is computed from their number."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Conv1d(trunk, 3 * trunk, 1), nn.Conv1d(trunk, trunk, 1)

    def forward(self, x: Tensor) -> Tensor:
        fused = self.qkv(x.transpose(1, 2))
        n, width, t = fused.shape
        size = width // (3 * self.heads)
        q, k, v = fused.reshape(n * self.heads, 3 * size, t).split(size, 1)
        weights = torch.einsum("bct,bcs->bts", q * size**-0.25, k * size**-0.25).softmax(-1)
        return self.proj(torch.einsum("bts,bcs->bct", weights, v).reshape(n, -1, t)).transpose(1, 2)


class GatedByHeads(nn.Module):
    """WavLM: a layer that all heads share makes the gate of each from its part of what arrives."""

    def __init__(self, trunk: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj, self.gate = nn.Linear(trunk, 3 * trunk), nn.Linear(trunk, trunk), nn.Linear(SIZE, 4)
        self.constant, self.bias = nn.Parameter(torch.rand(1, heads, 1, 1)), nn.Parameter(torch.randn(heads, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        gates = self.gate(x.view(n, t, self.num_heads, -1).transpose(1, 2)).view(n, -1, t, 2, 2).sum(-1)
        a, b = gates.sigmoid().chunk(2, -1)
        qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = by_hand(q * SIZE**-0.5, k, v, a * (b * self.constant - 1) * self.bias)
        return self.proj(y.transpose(1, 2).reshape(n, t, c))


BLOCKS: dict[str, tuple[type[nn.Module], dict[str, dict[int, int | tuple[int, ...]]]]] = {
    # block, and of which parameters an axis holds several parts, equal or in these proportions, each of which keeps its
    # leading channels
    "fused": (FusedByAttributes, {"qkv.weight": {0: 3}, "qkv.bias": {0: 3}}),
    "split": (SplitBySize, {"weight": {1: 3}, "bias": {0: 3}}),
    "separate": (Separate, {}),
    "grouped rotary": (GroupedRotary, {}),
    "grouped inside": (GroupedInside, {"kv.weight": {0: 2}, "kv.bias": {0: 2}}),
    "biased windows": (BiasedWindows, {"qkv.weight": {0: 3}, "qkv.bias": {0: 3}}),
    "reduced": (Reduced, {}),
    "talking": (Talking, {"qkv.weight": {0: 3}, "qkv.bias": {0: 3}}),
    "over channels": (OverChannels, {"qkv.weight": {0: 3}, "qkv.bias": {0: 3}}),
    "interleaved": (Interleaved, {}),
    "sliced": (SlicedByAttributes, {"qkv.weight": {0: (2, 1, 1)}, "qkv.bias": {0: (2, 1, 1)}}),
    "biased by a part": (BiasedByAPart, {}),
    "groups of heads": (GroupsOfHeads, {}),
    "heads of a batch": (HeadsOfABatch, {}),
    "torch": (Torchs, {"attention.in_proj_weight": {0: 3}, "attention.in_proj_bias": {0: 3}}),
    "gated by heads": (GatedByHeads, {"qkv.weight": {0: 3}, "qkv.bias": {0: 3}}),
    "einsum": (Einsum, {"kv.weight": {0: 2}, "kv.bias": {0: 2}}),
}
