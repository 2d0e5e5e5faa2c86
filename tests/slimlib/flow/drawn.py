"""Networks of images that are put together by chance, of the parts that networks are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COUNTS = (16, 24, 32)  # channels of a layer


class Part(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, H', W']; `choice` is any number, which may decide how."""

    def __init__(self, inputs: int, choice: int) -> None:
        super().__init__()
        self.inputs = self.outputs = inputs
        self.how = str(choice)  # a number might be taken for one of channels
        self.build()

    @property
    def choice(self) -> int:
        return int(self.how)

    def build(self) -> None:
        """Make the layers."""

    def of(self, options: Sequence[int]) -> int:
        """One of the options."""
        return options[self.choice % len(options)]

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        """x is what the part before gave, `first` what the first layer did."""
        raise NotImplementedError


class Convolution(Part):
    def build(self) -> None:
        self.outputs, kernel = self.of(COUNTS), self.of((1, 3, 5))
        self.conv = nn.Conv2d(self.inputs, self.outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        return F.elu(self.conv(x))  # a channel that relu makes zero everywhere would be taken for an inactive one


class Grouped(Part):
    """Depthwise, or of four groups."""

    def build(self) -> None:
        groups = self.of((self.inputs, 4))
        self.conv = nn.Conv2d(self.inputs, self.inputs, 3, padding=1, groups=groups, bias=self.choice % 3 > 0)

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        return self.conv(x)


class Normed(Part):
    def build(self) -> None:
        kinds = (nn.BatchNorm2d, lambda c: nn.GroupNorm(4, c), lambda c: nn.GroupNorm(1, c), nn.LayerNorm)
        self.norm = kinds[self.choice % 4](self.inputs)

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        last = isinstance(self.norm, nn.LayerNorm)
        return self.norm(x.movedim(1, -1)).movedim(-1, 1) if last else self.norm(x)


class Residual(Part):
    def build(self) -> None:
        hidden = self.of(COUNTS)
        self.one, self.two = nn.Conv2d(self.inputs, hidden, 3, padding=1), nn.Conv2d(hidden, self.inputs, 1)

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        return x + self.two(self.one(x).relu())


class FromFirst(Part):
    """What the first layer gave comes in again: added, concatenated, or stacked and reduced."""

    def build(self) -> None:
        self.enter = nn.Conv2d(16, self.inputs, 1)
        self.outputs = 2 * self.inputs if self.choice % 4 == 0 else self.inputs

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        other = F.interpolate(self.enter(first), x.shape[2:])
        if self.choice % 4 == 0:
            return torch.cat([x, other], 1)
        if self.choice % 4 == 1:
            return x * other.sigmoid()
        both = torch.stack([x, other], self.choice % 3)
        return both.mean(self.choice % 3) if self.choice % 4 == 2 else both.amax(self.choice % 3)


class Split(Part):
    """Halves of which one gates the other, or passes it by; or a quarter that goes its own way."""

    def build(self) -> None:
        self.outputs = self.inputs // 2 if self.choice % 4 == 0 else self.inputs
        self.conv = nn.Conv2d(self.inputs // 4, self.inputs // 4, 3, padding=1)

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        if self.choice % 4 == 0:
            return a * b.sigmoid()
        if self.choice % 4 == 1:
            return torch.cat([b, a.tanh()], 1)
        c = x.shape[1] // 4
        if self.choice % 4 == 2:
            return torch.cat([self.conv(x[:, :c]), x[:, c:]], 1)
        return x.view(len(x), 2, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)


class Space(Part):
    """Padded, pooled or resized."""

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        if self.choice % 4 == 0:
            return F.pad(x, (1, 0, self.choice % 2, 1))
        if self.choice % 4 == 1:
            return F.avg_pool2d(x, 2) if min(x.shape[2:]) > 3 else x
        return F.max_pool2d(x, 3, 1, 1) if self.choice % 4 == 2 else F.interpolate(x, (6, 7), mode="bilinear")


class Gated(Part):
    """Squeeze and excitation, or a gate for each place from the mean over channels."""

    def build(self) -> None:
        self.squeeze, self.excite = nn.Linear(self.inputs, 8), nn.Linear(8, self.inputs)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        if self.choice % 2:
            return x * self.conv(x.square().mean(1, keepdim=True)).sigmoid()
        return x * self.excite(self.squeeze(F.adaptive_avg_pool2d(x, 1).flatten(1)).relu()).sigmoid()[..., None, None]


class Attention(Part):
    """Heads of eight channels, over places; their number is an attribute, or read off what arrives."""

    def build(self) -> None:
        self.heads = self.inputs // 8
        self.norm, self.qkv = nn.LayerNorm(self.inputs), nn.Linear(self.inputs, 3 * self.inputs)
        self.proj = nn.Linear(self.inputs, self.inputs)

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        y = self.norm(x.flatten(2).transpose(1, 2))
        n, t, c = y.shape
        shape = (n, t, 3, self.heads, c // self.heads) if self.choice % 2 else (n, t, 3, -1, 8)
        q, k, v = self.qkv(y).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v
        return x + self.proj(y.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(x.shape)


PARTS = (Convolution, Grouped, Normed, Residual, FromFirst, Split, Space, Gated, Attention)


class Drawn(nn.Module):
    """A first layer, the parts, and a classifier of what they make."""

    def __init__(self, parts: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.parts = nn.ModuleList()
        count = 16
        for kind, choice in parts:
            self.parts.append(PARTS[kind](count, choice))
            count = self.parts[-1].outputs
            if count % 8 or count > 64:  # halves of halves, and concatenations of concatenations
                self.parts.append(Convolution(count, choice))
                count = self.parts[-1].outputs
        self.head = nn.Linear(count, 3)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3]
        x = first = F.elu(self.first(x))
        for part in self.parts:
            x = part(x, first)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
