"""A network in which nothing slims is refused, with the names of layers and operations, and nothing is touched."""

import copy

import pytest
import torch
from torch import nn

from slimlib.flow import FlowError, follow
from tests.networks_with_quirks import Wrapped


def test_a_network_in_which_nothing_slims_is_refused():
    with pytest.raises(FlowError, match=r"nothing slims in this Linear. .* reaches the network's output"):
        follow(nn.Linear(4, 4), torch.randn(2, 4))


def test_what_is_refused_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(4, 8), nn.Softmax(-1), nn.Linear(8, 2))
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(FlowError, match=r"'0': softmax over channels: _softmax in '1' \(Softmax\)"):
        follow(net, torch.randn(2, 4))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_wrong_numbers_can_be_kept_full():
    net = Wrapped(lambda m, x: x / x.shape[1] ** 0.5)
    assert "a" in follow(net, torch.randn(2, 3, 8, 8), keep=["a"]).kept


def test_harmless_writes_into_views_are_followed():
    net = Wrapped(lambda m, x: x.flatten(2).relu_().add_(x.flatten(2)).view_as(x))
    assert "a" not in follow(net, torch.randn(2, 3, 8, 8)).kept


class OfOneSize(nn.Module):
    """Patches of images of 8 x 8, which are asserted as timm does, or else found out by an operation."""

    def __init__(self, asserts):
        super().__init__()
        self.asserts, self.project, self.positions = asserts, nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.zeros(4, 16))

    def forward(self, x):
        assert not self.asserts or x.shape[-1] == 8, f"Input width ({x.shape[-1]}) doesn't match model (8)."
        return self.project(x).flatten(2).transpose(1, 2) + self.positions


@pytest.mark.parametrize(
    ("asserts", "says"),
    [(True, r"AssertionError: Input width \(16\) doesn't match model \(8\)"), (False, "RuntimeError")],
)
def test_an_example_that_the_network_itself_refuses(asserts, says):
    net = nn.Sequential(nn.Identity(), OfOneSize(asserts), nn.Linear(16, 2))
    where = r"the network itself does not run on the example: '1' \(OfOneSize\), given \[2, 3, 16, 16\], raises "
    with pytest.raises(FlowError, match=f"{where}{says}.*; give an example of the kind and sizes"):
        follow(net, torch.randn(2, 3, 16, 16))
    assert "0" not in follow(net, torch.randn(2, 3, 8, 8)).kept
