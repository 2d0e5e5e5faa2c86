"""Modules that never ran on the example follow those of their kind that did."""

import copy

import pytest
import torch
from torch import nn

import slimlib as slim
from slimlib.core.layout import Layout
from tests.slimlib.flow.judging import share_left


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x):
        return self.down(self.up(self.norm(x)).relu())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.inner, self.outer = 4, nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x):
        q, k, v = self.inner(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.mT * 8**-0.5, -1)
        return self.outer((weights @ v).transpose(1, 2).reshape(*x.shape[:2], -1))


class Chosen(nn.Module):
    """Adds what some of its parts make."""

    def __init__(self, kind, runs):
        super().__init__()
        self.first, self.last = nn.Linear(8, 32), nn.Linear(32, 3)
        self.parts, self.runs = nn.ModuleList(kind() for _ in range(4)), runs

    def forward(self, x):
        x = self.first(x)
        for number in self.runs:
            x = x + self.parts[number](x)
        return self.last(x)


@pytest.mark.parametrize("runs", [(0,), (1, 3), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("kind", [Expert, Attention])
def test_parts_that_never_ran_compute_as_if_they_had(kind, runs):
    torch.manual_seed(0)
    x, rest = torch.randn(2, 5, 8), tuple({0, 1, 2, 3} - set(runs))
    net = Chosen(kind, runs).double()
    twin = copy.deepcopy(net)
    twin.runs, x = rest, x.double()
    slim.convert(net, x)
    assert set(net.slim.layout.like) == {f"parts.{number}" for number in rest}
    assert "of the same class: parts." in str(net.slim) and not net.slim.layout.idle
    assert Layout.from_json(net.slim.layout.to_json()) == net.slim.layout
    slim.convert(twin, x)
    net.runs = rest
    for width in (1.0, 0.5, 0.25):
        slim.set_width(net, width), slim.set_width(twin, width)
        torch.testing.assert_close(net(x), twin(x))
    torch.testing.assert_close(slim.extract(net, 0.5)(x), slim.extract(twin, 0.5)(x))


class TwoStages(nn.Module):
    """Parts of one class and shape whose channels have nothing to do with each other, and one that never runs."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.first, self.between, self.last = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x):
        return self.last(self.parts[1](self.between(self.parts[0](self.first(x)).relu()).relu()).relu())


def test_parts_without_channels_in_common_say_nothing_of_another():
    net = slim.convert(TwoStages(), torch.randn(2, 8))
    assert net.slim.layout.idle == ("parts.2",) and not net.slim.layout.like


class Shared(Chosen):
    """Layers of a list are known by other names that come first."""

    def __init__(self):
        super().__init__(Expert, (0, 1))
        self.also = nn.Linear(32, 3)
        self.rows = nn.ModuleList([self.last, self.also])


def test_layers_that_a_list_shares_stay_what_they_are():
    net = slim.convert(Shared(), torch.randn(2, 5, 8))
    assert set(net.slim.layout.like) == {"parts.2", "parts.3"} and net.slim.layout.idle == ("also",)


class Routed(nn.Module):
    """Each token goes to the expert that the numbers of a layer choose; those that no token chose do not run."""

    def __init__(self):
        super().__init__()
        self.first, self.route, self.last = nn.Linear(8, 32), nn.Linear(32, 6), nn.Linear(32, 3)
        self.experts = nn.ModuleList(Expert() for _ in range(6))

    def forward(self, x):
        x = self.first(x)
        chosen = self.route(x).argmax(-1)
        out = torch.zeros_like(x)
        for number in chosen.unique().tolist():
            out[chosen == number] = self.experts[number](x[chosen == number])
        return self.last(x + out)


def test_experts_chosen_by_numbers_slim_whichever_the_example_chose():
    torch.manual_seed(0)
    net = Routed()
    assert share_left(net, torch.randn(4, 8)) < 0.3
    slim.set_width(net, 0.5)
    assert net(torch.randn(500, 8)).shape == (500, 3)
