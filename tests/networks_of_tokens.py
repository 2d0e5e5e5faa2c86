"""Networks whose channels lie on the last axis: mixers, transformers, linear layers with norms."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mixer(nn.Module):
    """Patches, a position embedding, mixing over tokens then over channels, LayerNorm and layer scale."""

    def __init__(self, dim: int = 32, tokens: int = 16, token_hidden: int = 24, hidden: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.position = nn.Parameter(torch.randn(1, tokens, dim) * 0.1)
        self.norm_a, self.norm_b, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.token_a, self.token_b = nn.Linear(tokens, token_hidden), nn.Linear(token_hidden, tokens)
        self.channel_a, self.channel_b = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.3))
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, 16, 16] -> [N, 10]
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position  # [N, tokens, dim]
        y = self.token_b(F.gelu(self.token_a(self.norm_a(x).transpose(1, 2)))).transpose(1, 2)
        x = x + y
        x = x + self.scale * self.channel_b(F.gelu(self.channel_a(self.norm_b(x))))
        return self.head(self.norm(x).mean(1))


class Transformer(nn.Module):
    """A pre-norm block whose heads follow from the channels that arrive, a class token and position embeddings."""

    def __init__(self, dim: int = 32, inner: int = 32, hidden: int = 64, head: int = 8, tokens: int = 16) -> None:
        super().__init__()
        self.head_size = head
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, dim) * 0.1)
        self.position = nn.Parameter(torch.randn(1, tokens + 1, dim) * 0.1)
        self.norm_a, self.norm_b = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = nn.Linear(dim, inner), nn.Linear(dim, inner), nn.Linear(dim, inner)
        self.project = nn.Linear(inner, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.3))
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.out = nn.Linear(dim, 10)

    def heads(self, x: Tensor) -> Tensor:  # [N, T, inner] -> [N, heads, T, head_size]
        return x.unflatten(-1, (-1, self.head_size)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, 16, 16] -> [N, 10]
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        y = self.norm_a(x)
        y = F.scaled_dot_product_attention(
            self.heads(self.query(y)), self.heads(self.key(y)), self.heads(self.value(y))
        )
        x = x + self.scale * self.project(y.transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm_b(x))))
        return self.out(x[:, 0])


class LastAxisNorm(nn.Module):
    """Linear layers with a norm over the last axis (LayerNorm, RMSNorm)."""

    def __init__(self, norm: Callable[[int], nn.Module], a: int = 32, b: int = 48) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Linear(8, a), norm(a)
        self.b, self.norm_b = nn.Linear(a, b), norm(b)
        self.c = nn.Linear(b, 3)

    def forward(self, x: Tensor) -> Tensor:  # [N, T, 8] -> [N, T, 3]
        return self.c(F.silu(self.norm_b(self.b(F.silu(self.norm_a(self.a(x)))))))
