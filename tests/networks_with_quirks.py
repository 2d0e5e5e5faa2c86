"""Networks that do what is hard to follow: branches on data, literal sizes, shared layers, dicts and tuples."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ControlFlow(nn.Module):
    """Branches and loops on data."""

    def __init__(self, a: int = 32) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, a, 3, padding=1), nn.Conv2d(a, a, 3, padding=1)
        self.c, self.fc = nn.Conv2d(a, a, 1), nn.Linear(a, 10)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 10]
        y = self.a(x).relu()
        y = y + self.b(y) if y.mean() > 0 else self.c(y)
        for _ in range(int(y.abs().max().item() > 0) + 1):
            y = y + self.c(y)
        return self.fc(y.mean((2, 3)))


class Fourier(nn.Module):
    """A transform that mixes all channels."""

    def __init__(self, a: int = 32, b: int = 32) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, a), nn.Linear(a, b), nn.Linear(b, 8)

    def forward(self, x: Tensor) -> Tensor:  # [N, 16] -> [N, 8]
        return self.c(torch.fft.fft(self.b(self.a(x).relu()), dim=-1).real)


class PaddedShortcut(nn.Module):
    """The shortcut of CIFAR ResNets: half the missing channels of zeros on either side, as a literal."""

    def __init__(self, a: int = 16, b: int = 32, inner: int = 32) -> None:
        super().__init__()
        self.a, self.inner, self.b = nn.Conv2d(3, a, 3, padding=1), nn.Conv2d(a, inner, 3, 2, 1), nn.Conv2d(inner, b, 1)
        self.fc = nn.Linear(b, 10)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 10]
        x = self.a(x).relu()
        y = self.b(self.inner(x).relu()) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
        return self.fc(y.mean((2, 3)))


class HardView(nn.Module):
    """A flatten whose size is written as a literal."""

    def __init__(self, a: int = 16, b: int = 8, hidden: int = 32) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, a, 3, 2, 1), nn.Conv2d(a, b, 3, 2, 1)
        self.hidden, self.out = nn.Linear(b * 64, hidden), nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, 32, 32] -> [N, 10]
        return self.out(self.hidden(self.b(self.a(x).relu()).view(-1, 512)).relu())


class SharedModule(nn.Module):
    """One layer called twice, and one weight that belongs to two layers."""

    def __init__(self, a: int = 24) -> None:
        super().__init__()
        self.a, self.twice = nn.Linear(8, a), nn.Linear(a, a)
        self.left, self.right = nn.Linear(a, a), nn.Linear(a, a)
        self.right.weight = self.left.weight
        self.again = self.twice
        self.out = nn.Linear(a, 4)

    def forward(self, x: Tensor) -> Tensor:  # [N, 8] -> [N, 4]
        x = self.twice(F.relu(self.a(x)))
        x = self.right(F.relu(self.left(F.relu(self.again(x)))))
        return self.out(x)


class TrainingHead(nn.Module):
    """An auxiliary head that only runs in training, an embedding, and inputs and outputs in a dict and a tuple."""

    def __init__(self, a: int = 32, b: int = 32, aux: int = 16) -> None:
        super().__init__()
        self.embed, self.a = nn.Embedding(10, a), nn.Linear(6, a)
        self.b, self.out = nn.Linear(a, b), nn.Linear(b, 4)
        self.aux, self.aux_out = nn.Linear(b, aux), nn.Linear(aux, 4)
        self.never = nn.Linear(3, 3)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        x = F.relu(self.b(F.relu(self.a(batch["x"]) + self.embed(batch["token"]))))
        return (self.out(x), self.aux_out(F.relu(self.aux(x)))) if self.training else (self.out(x),)


class Wrapped(nn.Module):
    """conv, then whatever is tested, then conv: its first layer stays full where that mixes channels."""

    class Middle(nn.Module):
        def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> None:
            super().__init__()
            self.function = function
            for name, layer in layers.items():
                setattr(self, name, layer)

        def forward(self, x: Tensor) -> Tensor:
            return self.function(self, x)

    def __init__(
        self, function: Callable[[nn.Module, Tensor], Tensor], channels: int = 16, **layers: nn.Module
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.a = nn.Conv2d(16, channels, 3, padding=1)
        self.middle = self.Middle(function, **layers)
        self.b = nn.Conv2d(channels, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.b(self.middle(self.a(self.first(x).relu()))).relu())
