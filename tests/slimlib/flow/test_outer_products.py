"""Matrices that are products of two kinds of channels, as the keys and values of linear attention are."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from slimlib.flow import follow
from tests.slimlib.flow.judging import Net, conv, image, share_left, tokens


class Linear(nn.Module):
    """One head of linear attention (Katharopoulos et al. 2020, eq. 6): keys times values, then queries times that."""

    def __init__(self, trunk: int = 32, keys: int = 24, values: int = 40) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(16, trunk), nn.Linear(trunk, 3)
        self.q, self.k, self.v = nn.Linear(trunk, keys), nn.Linear(trunk, keys), nn.Linear(trunk, values)
        self.back = nn.Linear(values, trunk)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q @ (k.transpose(1, 2) @ v) / (q @ k.sum(1)[..., None])

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        q, k = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1
        return self.leave(x + self.back(self.attend(q, k, self.v(x))))


class ByEquations(Linear):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        known = torch.einsum("nsd,nsm->nmd", k, v) * 0.5
        return torch.einsum("nld,nmd,nl->nlm", q, known, 1 / torch.einsum("nld,nd->nl", q, k.sum(1)))


class OfOneImage(Linear):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.stack([a @ torch.mm(b.t(), c) for a, b, c in zip(q, k, v, strict=True)])


@pytest.mark.parametrize("kind", [Linear, ByEquations, OfOneImage])
def test_keys_and_values_of_linear_attention_slim(kind):
    torch.manual_seed(0)
    dense, x = kind().eval(), tokens()
    net = slim.convert(copy.deepcopy(dense), x)
    assert set(net.slim.layout.kept) == {"leave"}
    for trunk, keys, values in ((16, 8, 16), (8, 16, 32), (24, 24, 8)):
        plan = slim.WidthPlan([{32: trunk, 24: keys, 40: values}[group.units] for group in net.slim.layout.groups])
        small, twin = slim.extract(net, plan, x), kind(trunk, keys, values).eval()
        assert [p.shape for p in small.parameters()] == [p.shape for p in twin.parameters()]
        twin.load_state_dict(small.state_dict())
        with slim.at_width(net, plan), torch.no_grad():
            torch.testing.assert_close(net(x), twin(x))
    assert torch.equal(net(x), dense(x))


def test_of_two_maps_that_are_pooled_by_their_product_one_slims():
    """Lin et al. 2015 (Bilinear CNN): the head reads both kinds of channels along one axis, of which it follows one."""

    def forward(net, x):
        x = F.relu(net.first(x))
        a, b = net.a(x).flatten(2), net.b(x).flatten(2)
        return net.last((a @ b.transpose(1, 2)).flatten(1))

    net = Net(forward, first=conv(3, 64), a=conv(64, 48), b=conv(64, 16, 1), last=nn.Linear(48 * 16, 3))
    assert set(follow(net, image()).kept) == {"b", "last"}
    assert share_left(net, image()) < 0.35


def test_what_takes_the_elements_one_by_one_keeps_both_kinds_full():
    """Fu et al. 2019 (DANet), sec. 3.3: channels attend to channels."""

    def forward(net, x):
        y = F.relu(net.second(F.relu(net.first(x)))).flatten(2)
        return net.last(((y @ y.transpose(1, 2)).softmax(-1) @ y).unflatten(2, (8, 8)))

    net = Net(forward, first=conv(3, 32), second=conv(32, 32), last=conv(32, 3))
    kept = follow(net, image()).kept
    assert set(kept) == {"second", "last"}
    assert "takes each element of an outer product of channels by itself: _softmax" in kept["second"]
