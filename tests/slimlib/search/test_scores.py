"""Scores of channels against values worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from tests.networks import EDSR, WDSR, Concatenating, MobileNet, OldWeightNorm, image


class Two(nn.Module):
    """Two layers whose sum a third reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 16), nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3] -> [N, 2]
        return self.c(torch.tanh(self.a(x) + self.b(x)))


def two() -> nn.Module:
    torch.manual_seed(0)
    return slim.convert(Two(), torch.randn(4, 3))


def test_l2_is_the_squared_norm_of_all_that_make_a_channel() -> None:
    net = two()
    expected = (net.a.weight.square().sum(1) + net.b.weight.square().sum(1)).double()
    scores = slim.channel_scores(net, by="l2")
    assert (scores.by, scores.groups) == ("l2", (net.slim.layout.groups[0].name,))
    torch.testing.assert_close(scores.values[0], expected)


def test_consumers_is_the_norm_of_what_reads_a_channel() -> None:
    net = two()
    torch.testing.assert_close(slim.channel_scores(net, "consumers").values[0], net.c.weight.abs().sum(0).double())


class Tagger(nn.Module):
    """Layers that hold several weights: recurrent ones, attention, and a product of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rnn = nn.Embedding(20, 24), nn.LSTM(24, 32, num_layers=2, batch_first=True)
        self.pairs, self.head = nn.Bilinear(32, 32, 16), nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:  # [N, T] -> [N, T, 7]
        states = self.rnn(self.table(x))[0]
        return self.head(self.pairs(states, states))


def test_layers_of_several_weights_make_along_the_first_dimension_and_read_along_the_others() -> None:
    torch.manual_seed(0)
    net = slim.convert(Tagger().double(), torch.randint(0, 20, (2, 6)))
    of_group = {group.name: place for place, group in enumerate(net.slim.layout.groups)}
    read, made = slim.channel_scores(net, "consumers").values, slim.channel_scores(net, "l2").values
    rnn, pairs = net.rnn, net.pairs.weight
    torch.testing.assert_close(read[of_group["table"]], rnn.weight_ih_l0.abs().sum(0))
    of_states = sum(w.abs().sum(0) for w in (rnn.weight_hh_l0, rnn.weight_ih_l1, rnn.weight_hh_l1))
    torch.testing.assert_close(read[of_group["rnn"]], of_states + pairs.abs().sum((0, 1)) + pairs.abs().sum((0, 2)))
    gates = sum(w.square().sum(1) for w in (rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.weight_ih_l1, rnn.weight_hh_l1))
    torch.testing.assert_close(made[of_group["rnn"]], gates.view(4, 32).sum(0))
    torch.testing.assert_close(made[of_group["pairs"]], pairs.square().sum((1, 2)))


def test_batchnorm_is_the_size_of_its_scale_over_all_that_follow() -> None:
    net = slim.convert(Concatenating(), image())
    for norm in [*net.norms, net.norm]:
        nn.init.normal_(norm.weight)
    scores = slim.channel_scores(net, "batchnorm")
    expected = sum(norm.weight[:16].abs() for norm in [*net.norms, net.norm])
    torch.testing.assert_close(scores.values[0], expected.double())


def test_taylor_is_what_the_loss_changes_by_when_a_channel_fades() -> None:
    net = two().double()
    batches = [torch.randn(8, 3, dtype=torch.double) for _ in range(3)]

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).square().sum()

    scores = slim.channel_scores(net, "taylor", batches=batches, loss=loss)
    expected = torch.zeros(16, dtype=torch.double)
    for x in batches:
        for layer in (net.a, net.b):
            other = net.b if layer is net.a else net.a
            scale = torch.ones(16, dtype=torch.double, requires_grad=True)
            made = F.linear(x, layer.weight * scale[:, None], layer.bias) + other(x)
            changed = net.c(torch.tanh(made)).square().sum()
            expected += torch.autograd.grad(changed, scale)[0].square() / len(batches)
    # the two layers of the group count together: their changes are squared one by one
    torch.testing.assert_close(scores.values[0], expected)


@pytest.mark.parametrize("factory", [lambda: WDSR(), lambda: OldWeightNorm()], ids=["parametrized", "by hooks"])
def test_normalised_weights_count_as_the_network_uses_them(factory) -> None:
    net, x = factory(), torch.randn(2, 3, 12, 12)
    net(x)
    first = net.head if isinstance(net, WDSR) else net.a
    used = first.weight.detach().square().flatten(1).sum(1).double()
    slim.convert(net, x)
    with torch.no_grad():
        slim.set_width(net, 0.25)
        net(x)
    values = slim.channel_scores(net).values[0]
    if isinstance(net, WDSR):
        used = used + sum(block[3].weight.detach().square().flatten(1).sum(1) for block in full(net).body)
    torch.testing.assert_close(values, used)


def full(net: nn.Module) -> nn.Module:
    slim.set_width(net, 1.0)
    return net


def test_depthwise_layers_follow_and_do_not_count() -> None:
    net = slim.convert(MobileNet(), image())
    pointwise = net.features[0][0].weight
    torch.testing.assert_close(slim.channel_scores(net).values[0], pointwise.square().flatten(1).sum(1).double())


def test_a_unit_of_several_channels_has_the_sum_of_theirs() -> None:
    net = slim.convert(EDSR(), image(12))
    up = next(i for i, g in enumerate(net.slim.layout.groups) if g.name == "up")
    expected = net.up.weight.square().flatten(1).sum(1).view(32, 4).sum(1).double()
    torch.testing.assert_close(slim.channel_scores(net).values[up], expected)


def test_scoring_leaves_width_and_mode_alone() -> None:
    net = two()
    slim.set_width(net, 0.5)
    before = net(torch.ones(1, 3))
    slim.channel_scores(net, "taylor", batches=[torch.ones(2, 3)], loss=lambda model, x: model(x).sum())
    assert net.training and slim.current_width(net) == 0.5
    assert torch.equal(net(torch.ones(1, 3)), before)
    assert all(p.grad is None for p in net.parameters())


def test_frozen_layers_have_the_scores_that_they_would_have_learning() -> None:
    given = {"batches": [torch.ones(2, 3)], "loss": lambda model, x: model(x).square().sum()}
    net = two()
    expected = slim.channel_scores(net, "taylor", **given)
    for frozen in (net.a, net):
        frozen.requires_grad_(False)
        with torch.no_grad():
            scores = slim.channel_scores(net, "taylor", **given)
        assert all(map(torch.equal, scores.values, expected.values))
        assert not any(p.requires_grad for p in frozen.parameters())


def test_a_network_that_is_never_full_has_scores_of_its_full_width() -> None:
    net = slim.convert(Two(), torch.randn(4, 3), widths=slim.WidthRange(0.25, 0.5))
    assert len(slim.channel_scores(net).values[0]) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "l1"}, "score 'l1' does not exist; choose one of l2, batchnorm, consumers, taylor"),
        ({"by": "taylor"}, "needs batches=... and loss=..."),
        ({"by": "taylor", "batches": [1]}, "needs batches=... and loss=..."),
        ({"by": "l2", "batches": [], "loss": lambda *_: 0}, "no other does"),
        ({"by": "l2", "loss": lambda *_: 0}, "no other does"),
        ({"by": "taylor", "batches": [], "loss": lambda *_: 0}, "got no batch"),
        ({"by": "batchnorm"}, "'a' has no score by 'batchnorm': no BatchNorm with a scale follows it"),
    ],
)
def test_bad_arguments_are_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        slim.channel_scores(two(), **arguments)


def test_scores_that_are_not_finite_are_refused_by_name() -> None:
    net = two()
    with torch.no_grad():
        net.b.weight[3, 1] = torch.nan
    with pytest.raises(ValueError, match="the scores of 'a' by 'l2' are not finite"):
        slim.channel_scores(net)
