"""Runs that ask for channels alone leave products out, unless forward looks at numbers; proofs need numbers."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

import slimlib as slim
from slimlib.flow import FlowError, follow
from tests.slimlib.flow.judging import between_convolutions, image, share_left


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


class ColoursBack(nn.Module):
    """Writes the numbers of one map where another is largest: how many there are depends on numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 3, 1)

    def forward(self, x):
        hue, light, depth = self.last(self.second(self.first(x).relu()).relu()).unbind(1)
        out = torch.zeros_like(hue)
        for part, within in ((light, hue > 0), (depth, hue <= 0)):
            out[within] = part[within]
        return torch.stack([out, light, depth], 1)


class KeyPoints(nn.Module):
    """The place of the largest number of each map, moved towards a neighbour unless it is at the edge."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 5, 1)

    def forward(self, x):
        maps = self.last(self.second(self.first(x).relu()).relu())
        found = []
        for one in maps.flatten(0, 1):
            place = int(one.argmax())
            row, column = divmod(place, one.shape[1])
            if 0 < column < one.shape[1] - 1:
                found.append(column + 0.25 * torch.sign(one[row, column + 1] - one[row, column - 1]))
            else:
                found.append(one[row].max() * 0 + column)
        return maps, torch.stack(found)


@pytest.mark.parametrize("kind", [ColoursBack, KeyPoints])
def test_what_depends_on_the_numbers_of_the_output_may_be_more_or_other_at_a_width(kind):
    torch.manual_seed(0)
    assert share_left(kind(), torch.randn(2, 3, 12, 12)) < 0.4


class DropsPaths(nn.Module):
    """In training it leaves branches out, as numbers say that torch does not draw."""

    def __init__(self, draw):
        super().__init__()
        self.first = nn.Linear(8, 32)
        self.branches = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        self.last, self.draw = nn.Linear(32, 4), draw

    def forward(self, x):
        y = self.first(x).relu()
        for branch in self.branches:
            y = y + branch(y).relu() * (self.draw() if self.training else 0.5)
        return self.last(y)


@pytest.mark.parametrize("draw", [random.random, lambda: float(np.random.binomial(1, 0.5))], ids=["random", "numpy"])
def test_numbers_that_python_or_numpy_draws_are_the_same_in_runs_that_are_compared(draw):
    states = random.getstate(), np.random.get_state()[1].tolist()
    assert share_left(DropsPaths(draw), torch.randn(4, 8)) < 0.3
    assert states == (random.getstate(), np.random.get_state()[1].tolist())


FILLS = {"zeros": 0.0, "ones": 1.0, "NaN": math.nan}


@pytest.mark.parametrize("fill", FILLS)
def test_an_example_without_numbers_of_its_own_hides_no_fault(fill):
    net = between_convolutions(lambda net, x: x * len(x[0]))
    random = follow(copy.deepcopy(net), image())
    filled = follow(net, torch.full_like(image(), FILLS[fill]))
    assert "gives other numbers" in filled.kept["first"]
    assert (filled.groups, filled.axes) == (random.groups, random.axes)


class Strict(nn.Module):
    """Takes a mask of ones and zeros alone."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x, mask):
        if not ((mask == 0) | (mask == 1)).all():
            raise ValueError("the mask has other numbers than 0 and 1")
        return self.last(self.first(x) * mask)


def test_an_example_of_which_no_other_numbers_will_do_is_taken_as_it_is():
    assert set(follow(Strict(), (torch.randn(2, 8), torch.ones(2, 1))).kept) == {"last"}


def test_a_network_that_gives_no_numbers_is_refused():
    net = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 4))
    net[1].bias.data.fill_(math.nan)
    with pytest.raises(FlowError, match="returns no finite number for the example, so that nothing can be compared"):
        follow(net, torch.randn(2, 8))
