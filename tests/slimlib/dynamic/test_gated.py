"""A gate chooses a width for each sample: the tail is routed, training is random, evaluation is not."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from slimlib.dynamic.gate import one_hot_choice
from tests.networks import MobileNet, Residual

WIDTHS = (0.25, 0.5, 1.0)
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
IMAGES = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(3))
CUTS = {"mobilenet": (MobileNet, "features.4"), "residual": (Residual, "blocks.1")}


def gated_at(name: str) -> tuple[nn.Module, slim.Gated]:
    """A network that is cut in two, with a gate that gives the images different widths."""
    torch.manual_seed(0)
    build, before = CUTS[name]
    net = slim.convert(build(), IMAGES, divisor=4)
    slim.calibrate(net, [IMAGES], [*WIDTHS, *slim.gated_plans(net, before, WIDTHS)])
    gated = slim.Gated.at(net.eval(), before, WIDTHS, IMAGES).eval()
    gated.gate = InTurn()
    return net, gated


class InTurn(nn.Module):
    """A gate that gives the samples of a batch all the widths in turn, by how bright their features are."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features, torch.eye(3)[features.flatten(1).mean(1).argsort().argsort() % 3]


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_network_is_the_whole_at_the_plans(name: str) -> None:
    net, gated = gated_at(name)
    with torch.no_grad():
        answer = gated.answer(IMAGES)
        assert len(set(answer.widths)) > 1
        for sample, width in enumerate(answer.widths):
            with slim.at_width(net, gated.tail_widths[WIDTHS.index(width)]):
                alone = net(IMAGES[sample : sample + 1])
            torch.testing.assert_close(answer.output[sample : sample + 1], alone, **ROUNDING)
        stem = {plan.channels[0] for plan in gated.tail_widths}
        assert len(stem) == 1, "the stem stays at its width"


@pytest.mark.parametrize("name", CUTS)
def test_frozen_it_answers_the_same(name: str) -> None:
    net, gated = gated_at(name)
    frozen = gated.freeze()
    with torch.no_grad():
        before, after = gated.answer(IMAGES), frozen.answer(IMAGES)
        net.requires_grad_(False)
        for parameter in net.parameters():
            parameter.mul_(0)
        again = frozen.answer(IMAGES)
    assert before.widths == after.widths == again.widths
    torch.testing.assert_close(after.output, before.output, **ROUNDING)
    assert torch.equal(again.output, after.output)


def pickled(gated: slim.Gated) -> Any:
    return pickle.loads(pickle.dumps(gated))


def test_it_lives_without_the_variable_of_the_network_and_is_copied() -> None:
    gated = gated_at("mobilenet")[1]
    with torch.no_grad():
        answer = gated(IMAGES)
        frozen = gated.freeze()
        copies = (twin(each) for each in (gated, frozen) for twin in (copy.deepcopy, pickled))
        for other in (gated.to("cpu"), frozen, *copies):
            torch.testing.assert_close(other(IMAGES), answer, **ROUNDING)


def of_two_networks() -> slim.Gated:
    """Stem and tail converted by themselves: the features between them stay full."""
    torch.manual_seed(0)
    stem = slim.convert(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 12)), torch.randn(2, 8))
    tail = slim.convert(nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(2, 12))
    return slim.Gated(stem, tail, slim.SlimmingGate(12, 3), WIDTHS, stem_width=0.5)


@pytest.mark.parametrize("name", CUTS)
def test_an_empty_batch_has_an_empty_answer(name: str) -> None:
    net, gated = gated_at(name)
    gated.gate = slim.SlimmingGate(gated.stem_features(IMAGES).shape[1], 3).eval()
    answer = gated.answer(IMAGES[:0])
    assert answer.widths == ()
    assert answer.output.shape == net(IMAGES[:0]).shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_gate_computes_in_the_precision_of_its_network(dtype: torch.dtype) -> None:
    net, _ = gated_at("mobilenet")
    images = IMAGES.to(dtype)
    gated = slim.Gated.at(net.to(dtype), "features.4", WIDTHS, images).eval()
    assert gated(images).dtype == dtype


def test_what_is_for_the_whole_network_says_so(tmp_path: Path) -> None:
    _, gated = gated_at("mobilenet")
    for call in (
        lambda: slim.save(gated, tmp_path / "net.safetensors"),
        lambda: slim.calibrate(gated, [IMAGES], WIDTHS),
        lambda: slim.export(gated, tmp_path, WIDTHS, IMAGES),
    ):
        with pytest.raises(
            ValueError, match="this Gated runs parts of a slimmable network .*; give that network, and sa"
        ):
            call()
    for price in ("a", float("nan"), None):
        with pytest.raises(ValueError, match=f"price={price!r} must be a finite number"):
            gated.price = price


def test_stem_and_tail_of_their_own() -> None:
    gated, x = of_two_networks().eval(), torch.randn(20, 8)
    with torch.no_grad():
        answer = gated.answer(x)
        with slim.at_width(gated.stem, 0.5):
            features = gated.stem(x)
        torch.testing.assert_close(slim.route(gated.tail, features, answer.widths), answer.output)
        torch.testing.assert_close(gated.freeze()(x), answer.output, **ROUNDING)
    macs = [slim.cost(gated.stem, x[:1], 0.5).macs + slim.cost(gated.tail, features[:1], w).macs for w in WIDTHS]
    gate = 12 * 3 + 3 * 3 + 3 * 12
    assert gated.macs(x) == [each + gate for each in macs]


def test_a_price_moves_a_gate_that_none_was_found_for() -> None:
    gated, x = of_two_networks().eval(), torch.randn(20, 8)
    gated.price = 1e4
    assert set(gated.answer(x).widths) == {0.25}
    gated.price = -1e4
    assert set(gated.answer(x).widths) == {1.0}
    with pytest.raises(ValueError, match="a price is found on held-out inputs, and there is no batch"):
        gated.price_for([], 1e9, x)


def test_two_evaluations_are_equal_and_two_trainings_are_not() -> None:
    gated, x = of_two_networks(), torch.randn(50, 8)
    gated.eval()
    assert torch.equal(gated(x), gated(x))
    gated.train()
    assert not torch.equal(gated(x), gated(x))
    assert not gated.tail.training and not gated.stem.training and gated.gate.training


def test_the_gradient_of_the_choices_is_straight_through() -> None:
    gated, x = of_two_networks(), torch.randn(9, 8)
    target = torch.randint(4, (9,))
    found = []
    for reference in (False, True):
        gated.zero_grad()
        torch.manual_seed(5)
        if reference:
            features, scores = gated.scores(x)
            choices = one_hot_choice(scores)
            outputs = []
            for width in WIDTHS:
                with slim.at_width(gated.tail, width):
                    outputs.append(gated.tail(features))
            output = (choices[:, :, None] * torch.stack(outputs, 1)).sum(1)
        else:
            output = gated(x)
        F.cross_entropy(output, target).backward()
        found.append([output, *(parameter.grad.clone() for parameter in gated.gate.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **ROUNDING)
    assert found[0][1].abs().sum() > 0


def trained(
    penalty: float, unit: float, steps: int = 150
) -> tuple[slim.Gated, Tensor, Tensor, list[dict[str, Tensor]]]:
    """The narrow tail is right for positive inputs alone."""

    torch.manual_seed(0)
    x = torch.randn(256, 8)
    target = (x[:, 0] > 0).long()
    layers = nn.Linear(8, 32), nn.Linear(32, 2)
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        for unit_, factor, sign in ((0, 1.0, 1.0), (1, -1.0, 1.0), (20, -1.0, -2.0)):  # |x| of the first; with 20: x
            layers[0].weight[unit_, 0] = factor
            layers[1].weight[:, unit_] = torch.tensor([-5.0, 5.0]) * sign
    tail = slim.convert(nn.Sequential(layers[0], nn.ReLU(), layers[1]), x)
    gated = slim.Gated(nn.Identity(), tail, slim.SlimmingGate(8, 3, reduction=2.0), WIDTHS)
    before = [parameter.clone() for parameter in tail.parameters()]
    training = slim.GateTraining(gated, x, penalty=penalty, unit=unit)
    optimizer = torch.optim.Adam(gated.gate.parameters(), 0.02)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(training.backward(x, target, F.cross_entropy))
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, tail.parameters(), strict=True)), "the supernet is frozen"
    return gated.eval(), x, target, losses


def test_a_gate_learns_who_needs_which_width() -> None:
    gated, x, target, losses = trained(0.5, 1e9)
    answer = gated.answer(x)
    easy = [width for width, t in zip(answer.widths, target, strict=True) if t]
    hard = [width for width, t in zip(answer.widths, target, strict=True) if not t]
    assert sum(w == 0.25 for w in easy) > 0.9 * len(easy) and sum(w == 1.0 for w in hard) > 0.9 * len(hard)
    assert float(losses[-1]["gate"]) < 0.3 < float(losses[0]["gate"])


def test_the_penalty_of_cost_makes_narrow() -> None:
    macs = trained(0.0, 1.0, 1)[0].macs(torch.randn(1, 8))
    cheap, x, *_ = trained(1000.0, float(macs[-1]), 60)
    assert set(cheap.answer(x).widths) == {0.25}
    losses = trained(0.5, 10.0, 1)[3][0]
    assert float(losses["cost"]) == pytest.approx(0.5 * (float(losses["macs"]) / 10) ** 2, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "before", "says"),
    [
        ("mobilenet", "nope", r"SlimMobileNet has no module 'nope'; it has \w"),
        ("residual", "blocks.0.b", "a gate before 'blocks.0.b' would be in the middle of a block"),
        ("residual", "blocks.2.b", "what 'blocks_2_shortcut_1' computed|what 'blocks.2.shortcut.1' computed"),
        ("residual", "blocks.9", "SlimResidual has no module 'blocks.9'; it has blocks.[012], "),
    ],
)
def test_places_where_a_network_is_no_chain(name: str, before: str, says: str) -> None:
    net = slim.convert(CUTS[name][0](), IMAGES)
    with pytest.raises(ValueError, match=says):
        slim.Gated.at(net, before, WIDTHS, IMAGES)


def test_what_does_not_fit() -> None:
    net = slim.convert(MobileNet(), IMAGES, divisor=4).eval()
    net.train()
    with pytest.raises(slim.UncalibratedWidth, match="calibrate"):
        slim.Gated.at(net, "features.4", WIDTHS, IMAGES)
    assert all(module.training for module in net.modules())
    narrow = slim.convert(MobileNet(), IMAGES, widths=slim.WidthRange(0.5))
    with pytest.raises(ValueError, match=r"width 0.25 is outside what this network was converted for"):
        slim.Gated.at(narrow, "features.4", WIDTHS, IMAGES)
    tail: Any = of_two_networks().tail
    for stem, after, gate, widths, says in (
        (nn.Identity(), tail, slim.SlimmingGate(12, 2), WIDTHS, "chooses from 2 widths; there are 3"),
        (nn.Identity(), tail, slim.SlimmingGate(12, 2), (1.0, 0.5), "widths out of order"),
        (nn.Identity(), nn.Linear(12, 3), slim.SlimmingGate(12, 3), WIDTHS, "nothing in this Linear is slimmable"),
    ):
        with pytest.raises(ValueError, match=says):
            slim.Gated(stem, after, gate, widths)
    with pytest.raises(ValueError, match=r"got features \[5, 7\] and expects \[N, 12, ...\]"):
        slim.Gated(nn.Identity(), tail, slim.SlimmingGate(12, 3), WIDTHS)(torch.randn(5, 7))
    with pytest.raises(ValueError, match="needs at least one channel and two choices"):
        slim.SlimmingGate(12, 1)
    with pytest.raises(ValueError, match="penalty=-1 must be a number from 0"):
        slim.GateTraining(of_two_networks(), torch.randn(1, 8), penalty=-1)


def test_switchable_networks_have_no_norm_for_the_plans_between() -> None:
    net = slim.convert(MobileNet(), IMAGES, widths=slim.Switches(0.5, 1.0), norm="switchable", divisor=4).eval()
    with pytest.raises(ValueError, match="only switches have their own BatchNorm"):
        slim.Gated.at(net, "features.4", (0.5, 1.0), IMAGES)
