"""Sorting leaves the full network alone, and gives narrow widths the channels that matter most."""

from __future__ import annotations

import copy
import warnings
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import slimlib as slim
from slimlib.search.scores import ChannelScores
from tests.converting import made_slimmable
from tests.networks import NETWORKS, Concatenating, Residual
from tests.slimlib.search.sorted import X, assert_same, lively, outputs, random_scores, state
from tests.twins import dense_twin


@cache
def known(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    net, args = NETWORKS[name]()
    return made_slimmable(name, lively(net), args), args


def converted(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """A network of the table, slimmable, and its arguments."""
    net, args = known(name)
    return copy.deepcopy(net), args


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_the_full_network_computes_what_it_did(name: str, training: bool) -> None:
    net, args = converted(name)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # what it draws depends on the place
    tolerance = 1e-4
    if not name.startswith("sb3"):  # whose policies cast their inputs to float
        net, tolerance = net.double(), 1e-10
        args = tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, args)
    net.train(training)
    expected = outputs(copy.deepcopy(net), args)
    slim.sort_channels(net, random_scores(net))
    assert_same(outputs(net, args), expected, tolerance)


@pytest.mark.parametrize("name", NETWORKS)
def test_sorting_back_restores_every_tensor_bit_for_bit(name: str) -> None:
    net, _ = converted(name)
    before = state(net)
    scores = random_scores(net)
    moved = slim.sort_channels(net, scores)
    assert any(not torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    slim.sort_channels(net, back(scores, moved))
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def origins(scores: ChannelScores, moved: ChannelScores) -> list[Tensor]:
    """Which unit came to each place; scores of a group must differ."""
    pairs = zip(scores.values, moved.values, strict=True)
    return [(before == after[:, None]).int().argmax(1) for before, after in pairs]


def back(scores: ChannelScores, moved: ChannelScores) -> ChannelScores:
    """Scores by which sorting undoes the sorting that made `moved` of `scores`."""
    return ChannelScores("place", scores.groups, tuple(-unit.double() for unit in origins(scores, moved)))


@pytest.mark.parametrize("by", ["l2", "consumers"])
@pytest.mark.parametrize("name", ["mobilenet", "residual", "concatenating", "wdsr", "edsr", "transformer", "shared"])
def test_leading_units_then_score_highest(name: str, by: str) -> None:
    net, _ = converted(name)
    moved = slim.sort_channels(net, slim.channel_scores(net, by))
    for expected, found in zip(moved.values, slim.channel_scores(net, by).values, strict=True):
        torch.testing.assert_close(found, expected)
        assert bool((expected.diff() <= 0).all())


@pytest.mark.parametrize("name", ["mobilenet", "residual", "concatenating", "squeeze_excite", "wdsr", "mlp"])
def test_a_narrow_width_is_the_dense_network_of_the_best_channels(name: str) -> None:
    """Built by hand: its slices are those of a network whose channels were gathered one layer at a time."""
    torch.manual_seed(0)
    net, args = NETWORKS[name]()
    net = lively(net).eval()
    made_slimmable(name, net, args, norm="shared")
    slim.sort_channels(net, random_scores(net))
    slim.set_width(net, 0.5)
    full = copy.deepcopy(net)
    twin = dense_twin(name, slim.extract(full, 1.0) if name != "wdsr" else full, 0.5, 8).eval()
    assert_same(outputs(net, args), outputs(twin, args), 1e-5)


class Halves(nn.Module):
    """Two layers read a half each of what one makes, and a third reads all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 32, 3, padding=1)
        self.left, self.right = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.all, self.out = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 4, H, W]
        x = self.a(x).relu()
        left, right = x.chunk(2, 1)
        return self.out(self.left(left) + self.right(right) + self.all(x))


def test_units_that_other_layers_read_do_not_change_places() -> None:
    net = slim.convert(lively(Halves().double()), X.double())
    expected = outputs(net, (X.double(),))
    moved = slim.sort_channels(net, random_scores(net))
    assert_same(outputs(net, (X.double(),)), expected)
    first = next(i for i, g in enumerate(net.slim.layout.groups) if g.name == "a")
    for half in moved.values[first].chunk(2):
        assert bool((half.diff() <= 0).all())


def trained_briefly(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        x = torch.randn(4, 3, 16, 16, dtype=torch.double, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    lambda p: torch.optim.AdamW(p, 1e-2, amsgrad=True),
], ids=["sgd", "adamw"])  # fmt: skip
def test_training_goes_on_as_if_nothing_had_been_sorted(make) -> None:
    torch.manual_seed(0)
    sorted_net = slim.convert(lively(Concatenating().double()), X.double())
    plain = copy.deepcopy(sorted_net)
    results = []
    for net in (sorted_net, plain):
        optimizer = make(net.parameters())
        trained_briefly(net, optimizer, 3)
        if net is sorted_net:
            slim.sort_channels(net, random_scores(net), optimizer=optimizer)
        trained_briefly(net, optimizer, 3)
        results.append(outputs(net.eval(), (X.double(),)))
    assert_same(*results)


@pytest.mark.parametrize("norm", ["universal", "switchable"])
def test_an_averaged_teacher_teaches_the_same_after_sorting(norm: str) -> None:
    net = slim.convert(lively(Residual().double()), X.double(), widths=slim.Switches(0.25, 1.0), norm=norm)
    taught: list[Tensor] = []

    def distill(student: Tensor, teacher: Tensor) -> Tensor:
        taught.append(teacher)
        return (student - teacher).square().mean()

    def step(rule: slim.EveryWidth, net: nn.Module) -> Tensor:
        rule.backward(net, X.double(), lambda out: out.square().mean())
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
        return taught[-1]

    rule = slim.EveryWidth(net.slim.widths, lesson=slim.Lesson(0.5, distill, teacher=slim.AveragedTeacher(0.9)))
    before = [step(rule, net) for _ in range(3)]
    left, plain = copy.deepcopy(rule), copy.deepcopy(net)
    expected = step(left, plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slim.sort_channels(net, random_scores(net), rule=rule)
    torch.testing.assert_close(step(rule, net), expected)
    assert not torch.allclose(before[-1], expected)
    left.load_state_dict(rule.state_dict())
    step(left, net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slim.sort_channels(net, random_scores(net))
    with pytest.raises(ValueError, match=r"averaged teacher were not; call slimlib.sort_channels\(..., rule=rule\)"):
        step(left, net)


def test_gradients_move_along() -> None:
    net = slim.convert(lively(Residual()), X)
    net(X).square().mean().backward()
    products = {name: float((p.detach() * p.grad).sum()) for name, p in net.named_parameters()}
    slim.sort_channels(net, random_scores(net))
    for name, p in net.named_parameters():
        assert float((p.detach() * p.grad).sum()) == pytest.approx(products[name], rel=1e-4, abs=1e-6)


def test_state_of_another_shape_is_refused_before_anything_moves() -> None:
    net = slim.convert(lively(Residual()), X)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    optimizer.state[net.stem[0].weight]["row"] = torch.zeros(16)
    before = state(net)
    with pytest.raises(ValueError, match=r"SGD keeps 'row' \[16\] of 'stem.0.weight' \[16, 3, 3, 3\]"):
        slim.sort_channels(net, random_scores(net), optimizer=optimizer)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def test_views_and_parameters_stay_the_same_objects() -> None:
    net = slim.convert(lively(Residual()), X, norm="shared").eval()
    parameters = list(net.parameters())
    slim.set_width(net, 0.5)
    net(X)
    twin = copy.deepcopy(net)
    slim.sort_channels(net, random_scores(net))
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert slim.current_width(net) == 0.5
    slim.sort_channels(twin, random_scores(twin))
    slim.set_width(twin, 0.5)
    assert torch.equal(net(X), twin(X))


def calibrated(widths: tuple[float, ...] = (0.25, 0.5, 0.75)) -> nn.Module:
    net = slim.convert(lively(Residual()), X)
    slim.calibrate(net, [X], widths)
    return net.eval()


def test_statistics_of_widths_that_have_other_channels_go() -> None:
    net = calibrated()
    slim.sort_channels(net, random_scores(net))
    slim.set_width(net, 0.5)
    with pytest.raises(slim.UncalibratedWidth, match="calibrated: none but the full width"):
        net(X)
    slim.calibrate(net, [X], [0.5])
    net(X)


def test_bands_keep_what_their_widths_compute() -> None:
    net = calibrated()
    expected = {}
    for width in (0.25, 0.5, 1.0):
        slim.set_width(net, width)
        expected[width] = outputs(net, (X,))
    moved = slim.sort_channels(net, random_scores(net), bands=[0.5, 0.25])
    for width, before in expected.items():
        slim.set_width(net, width)
        assert_same(outputs(net, (X,)), before, 1e-4)
    slim.set_width(net, 0.75)
    with pytest.raises(slim.UncalibratedWidth):
        net(X)
    values = moved.values[0]
    for band in (values[:8], values[8:]):  # a quarter of 16 channels is 8 of them, as is a half
        assert bool((band.diff() <= 0).all())
    assert not bool((values.diff() <= 0).all())


def switchable() -> nn.Module:
    net = slim.convert(lively(Residual()), X, widths=slim.Switches(0.5, 0.75, 1.0), norm="switchable")
    return lively(net, seed=3).eval()


def test_switches_move_along_within_bands_and_else_begin_anew() -> None:
    net = switchable()
    slim.set_width(net, 0.5)
    expected = outputs(net, (X,))
    slim.sort_channels(net, random_scores(net), bands=[0.5])
    assert_same(outputs(net, (X,)), expected, 1e-4)
    slim.sort_channels(net, random_scores(net, seed=5))
    fresh = slim.convert(slim.extract(net, 1.0), X, widths=net.slim.widths, norm="switchable").eval()
    for width in (0.5, 0.75, 1.0):
        slim.set_width(net, width)
        slim.set_width(fresh, width)
        assert_same(outputs(net, (X,)), outputs(fresh, (X,)), 1e-6)


def test_a_network_trained_to_be_slimmed_warns_once() -> None:
    net = slim.convert(Residual(), X)
    rule = slim.Sandwich(slim.WidthRange(0.25, 1.0), samples=2)
    rule.backward(net, X, lambda output: output.square().mean())
    quiet = copy.deepcopy(net)
    with pytest.warns(UserWarning, match=r"trained at narrower widths, down to .*\[8, 8, 8, 8, 16\].*bands="):
        slim.sort_channels(net, random_scores(net))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slim.sort_channels(net, random_scores(net, seed=7))  # nothing is trained narrow any more
        slim.sort_channels(quiet, random_scores(quiet), bands=[0.25])
        slim.sort_channels(quiet, random_scores(quiet), bands=[0.25])
    assert quiet.slim.trained == (8, 8, 8, 8, 16)
    with pytest.warns(UserWarning, match="trained at narrower widths"):
        slim.sort_channels(quiet, random_scores(quiet), bands=[0.75])  # which keeps no narrower width


def test_that_it_was_trained_narrow_is_saved_and_copied(tmp_path) -> None:
    net = slim.convert(Residual(), X)
    slim.set_width(net, 0.5)
    net(X).sum().backward()
    slim.save(net, tmp_path / "net.safetensors")
    loaded = slim.load(tmp_path / "net.safetensors", into=Residual())
    assert loaded.slim.trained == copy.deepcopy(net).slim.trained == net.slim.trained is not None


def test_running_it_without_training_is_none() -> None:
    net = slim.convert(Residual(), X)
    slim.set_width(net, 0.5)
    with torch.no_grad():
        net(X)
    slim.calibrate(net, [X], [0.5])
    net.eval()(X)
    assert net.slim.trained is None


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), name=st.sampled_from(["concatenating", "glu", "shufflenet", "padded_shortcut"]))
def test_any_order_leaves_the_full_network_alone(seed: int, name: str) -> None:
    net, args = converted(name)
    net = net.double()
    args = tuple(a.double() for a in args)
    expected = outputs(net.eval(), args)
    slim.sort_channels(net, random_scores(net, seed))
    assert_same(outputs(net, args), expected)
