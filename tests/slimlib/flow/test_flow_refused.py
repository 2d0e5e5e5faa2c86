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


class OneImage(nn.Module):
    """Looks at the first image alone, which is too few for its BatchNorm."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Linear(16, 2)

    def forward(self, x):
        return self.last(self.norm(self.first(x[:1])))


def test_a_norm_of_one_image_is_named():
    with pytest.raises(
        FlowError, match=r"in training: 'norm' \(BatchNorm1d\), given \[1, 16\].* of two images at least"
    ):
        follow(OneImage(), torch.randn(2, 4))


def test_a_network_without_weights_is_refused_with_a_reason():
    with pytest.raises(FlowError, match="nothing slims in this Sequential. no layer of it has weights"):
        follow(nn.Sequential(nn.ReLU()), torch.randn(2, 4))


class LooksAtModes(nn.Sequential):
    """Runs by itself, and not where its operations are watched."""

    def forward(self, x):
        if torch.utils._python_dispatch._get_current_dispatch_mode_stack():
            raise KeyError("a mode")
        return super().forward(x)


def test_a_module_that_runs_only_unwatched_is_named():
    net = nn.Sequential(nn.Linear(4, 8), LooksAtModes(nn.ReLU()), nn.Linear(8, 2))
    with pytest.raises(FlowError, match=r"'1' \(LooksAtModes\) cannot be followed: KeyError: 'a mode'; give a layout="):
        follow(net, torch.randn(2, 4))


class Hooked(nn.Module):
    """Keeps what its first layer gives for its forward, in the network that is built or in the one that runs."""

    def __init__(self, own):
        super().__init__()
        self.kept, self.first, self.inner, self.last = {}, nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.first.register_forward_hook(self.keep if own else lambda *made: self.kept.update(first=made[2]))

    def keep(self, module, given, made):
        self.kept["first"] = made

    def forward(self, x):
        x = self.inner(self.first(x).relu())
        return self.last(x + self.kept.pop("first"))


def test_a_hook_that_writes_into_another_network_is_named():
    told = (
        r"own forward cannot be followed: KeyError: 'first'; a hook of 'first' writes into the network it was made with"
    )
    net = Hooked(own=False)
    with pytest.raises(FlowError, match=f"{told}.*; return the value from forward, or make the hook use the module it"):
        follow(net, torch.randn(2, 8))
    with pytest.raises(FlowError, match=r"does not run on the example: 'first' \(Linear\), given \[2, 9\], raises"):
        follow(net, torch.randn(2, 9))
    assert set(follow(Hooked(own=True), torch.randn(2, 8)).kept) == {"last"}
