"""Runs that ask for channels alone leave products out, unless forward looks at numbers; proofs need numbers."""

import pytest
import torch
from torch import nn

import slimlib as slim
from slimlib.flow import follow


class Looks(nn.Module):
    """Takes one way where its first layer gives anything but zeros, another where it gives zeros."""

    def __init__(self, read):
        super().__init__()
        self.first, self.usual, self.other = nn.Linear(256, 256), nn.Linear(256, 4), nn.Linear(256, 4)
        self.read = read

    def forward(self, x):
        y = self.first(x)
        return self.usual(y) if self.read(y) else self.other(y)


@pytest.mark.parametrize(
    "read",
    [
        lambda y: y.abs().sum() > 0,
        lambda y: y.abs().sum().item() > 0,
        lambda y: any(y.flatten().tolist()),
        lambda y: y.numpy().any(),
    ],
    ids=["bool", "item", "tolist", "numpy"],
)
def test_a_forward_that_looks_at_numbers_takes_its_own_way(read):
    layout = follow(Looks(read), torch.randn(2, 256))
    assert layout.idle == ("other",)
    assert "usual.weight" in layout.axes


class IndexesByResult(nn.Module):
    """A table that is indexed by what a layer gives, one off: zeros would be out of range."""

    def __init__(self):
        super().__init__()
        self.first, self.head, self.out = nn.Linear(256, 256), nn.Linear(256, 1), nn.Linear(256, 4)
        self.table = nn.Embedding(2, 256)
        nn.init.constant_(self.head.bias, 1.0)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        y = self.first(x)
        large = self.head(y) * y.new_ones(300, 300)[0, 0]
        rows = (large.round().long() - 1).clamp(max=1)[:, 0]
        return self.out(y + self.table(rows))


def test_indices_that_are_computed_stay_in_range():
    torch.manual_seed(0)
    net, x = IndexesByResult().eval(), torch.randn(2, 256)
    full = net(x)
    slim.convert(net, x)
    assert torch.equal(net(x), full)
    slim.set_width(net, 0.5)
    assert torch.allclose(slim.extract(net, 0.5)(x), net(x), atol=1e-6)


class NanInDouble(nn.Module):
    """Depends on the number of its channels, which double precision would hide."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x):
        y = self.first(x).relu()
        out = self.second(y / y.shape[1])
        return out if out.dtype == torch.float32 else out * torch.nan


def test_numbers_that_are_none_in_double_precision_are_compared_in_single():
    with pytest.raises(ValueError, match="nothing slims"):
        follow(NanInDouble(), torch.randn(4, 8))
