"""Switches that are plans: each layer has its own number of channels at each of them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import slimlib as slim
from tests.networks import MobileNet, Residual, image

SMALL, MIDDLE, LARGE = slim.WidthPlan((8, 8, 8)), slim.WidthPlan((8, 24, 16)), slim.WidthPlan((16, 24, 32))
PLANS = slim.Switches(MIDDLE, LARGE, SMALL)
X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Chain(nn.Module):
    """Three groups of layers, with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        convs = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b)) for a, b in ((3, 16), (16, 32), (32, 32))]
        self.body, self.head = nn.Sequential(*convs), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 5]
        return self.head(self.body(x).relu().mean((2, 3)))


def switchable() -> nn.Module:
    torch.manual_seed(0)
    return slim.convert(Chain(), X, widths=PLANS, norm="switchable")


def loss(output: Tensor) -> Tensor:
    return output.square().mean()


def gradients(net: nn.Module) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in net.named_parameters()}


def test_they_are_kept_from_narrow_to_wide() -> None:
    assert PLANS.widths == (SMALL, MIDDLE, LARGE)
    assert (PLANS.smallest, PLANS.largest) == (SMALL, LARGE)
    assert MIDDLE in PLANS
    assert slim.WidthPlan((8, 8, 16)) not in PLANS
    assert str(SMALL) in str(PLANS)
    assert slim.Switches(LARGE, SMALL, MIDDLE) == PLANS


@pytest.mark.parametrize("widths", [(SMALL, 0.5), (SMALL, slim.WidthPlan((8, 8))), (SMALL, slim.WidthPlan([8, 8, 8]))])
def test_impossible_switches_are_refused(widths: tuple[slim.WidthPlan | float, ...]) -> None:
    with pytest.raises(ValueError, match="all a WidthPlan|only once"):
        slim.Switches(*widths)


def test_plans_of_another_network_are_refused_before_it_is_touched() -> None:
    net = Chain()
    with pytest.raises(ValueError, match="the WidthPlan asks for 17 channels of 'body.0.0'; possible: 1 to 16"):
        slim.convert(net, X, widths=slim.Switches(SMALL, slim.WidthPlan((17, 8, 8))), norm="switchable")
    assert type(net) is Chain
    assert all(type(module).__module__.startswith("torch.") for module in net.body.modules())


def test_each_has_its_own_affine_and_statistics() -> None:
    net = switchable().train()
    assert slim.current_width(net) == LARGE
    for shift, plan in enumerate(PLANS.widths):
        slim.set_width(net, plan)
        net(X + 3 * shift)
        with torch.no_grad():
            net.body[0][1].bias.fill_(shift)
    means = []
    for shift, plan in enumerate(PLANS.widths):
        slim.set_width(net.eval(), plan)
        norm = net.body[0][1]
        assert norm.bias.shape == norm.running_mean.shape == (plan.channels[0],)
        assert norm.bias[0] == shift
        means.append(norm.running_mean[0].item())
    assert len(set(means)) == 3


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(lambda: slim.EveryWidth(PLANS), id="every"),
        pytest.param(lambda: slim.Sandwich(PLANS, samples=3), id="sandwich"),
    ],
)
def test_a_rule_adds_the_gradients_of_the_plans(rule) -> None:
    net, by_hand = switchable().train(), switchable().train()
    losses = rule().backward(net, X, loss)
    assert list(losses) == [LARGE, MIDDLE, SMALL]
    total = torch.zeros(())
    for plan in losses:
        slim.set_width(by_hand, plan)
        total = total + loss(by_hand(X))
    total.backward()
    for name, expected in gradients(by_hand).items():
        torch.testing.assert_close(gradients(net)[name], expected, msg=name)


def test_a_sandwich_of_two_trains_the_ends_and_teaches_by_the_largest() -> None:
    rule = slim.Sandwich(PLANS, samples=2, distill=slim.mse)
    assert rule.draw() == [LARGE, SMALL]
    losses = rule.backward(switchable(), X, loss)
    assert list(losses) == [LARGE, SMALL]


@pytest.mark.parametrize("width", [slim.WidthPlan((8, 8, 16)), 0.5, 1.0])
def test_another_width_of_a_switchable_network_is_refused_with_the_switches(width: slim.WidthPlan | float) -> None:
    net = switchable()
    calls = (
        lambda: slim.set_width(net, width),
        lambda: slim.extract(net, width),
        lambda: slim.freeze(net, [width]),
        lambda: slim.calibrate(net, [X], [width]),
    )
    for call in calls:
        with pytest.raises(ValueError) as refusal:
            call()
        assert all(str(plan) in str(refusal.value) for plan in PLANS.widths)
    assert slim.current_width(net) == LARGE


def test_a_plan_that_is_no_switch_of_uniform_switches_is_refused() -> None:
    net = slim.convert(Chain(), X, widths=slim.Switches(0.5, 1.0), norm="switchable")
    slim.set_width(net, slim.WidthPlan((8, 16, 16)))  # the channels of 0.5
    with pytest.raises(ValueError, match=r"WidthPlan.*is not a switch of this network.*: 0.5, 1"):
        slim.set_width(net, slim.WidthPlan((8, 16, 24)))


def test_a_universal_network_takes_any_plan() -> None:
    net = slim.convert(Chain(), X, widths=PLANS)
    other = slim.WidthPlan((8, 32, 8))
    slim.calibrate(net, [X], [SMALL, other])
    slim.set_width(net, other)
    assert net.eval()(X).shape == (4, 5)
    with pytest.raises(ValueError, match="width 0.5 is outside"):
        slim.set_width(net, 0.5)


def test_plans_are_saved_copied_frozen_and_extracted(tmp_path: Path) -> None:
    net = switchable()
    slim.EveryWidth(PLANS).backward(net, X, loss)
    net.eval()
    slim.save(net, tmp_path / "net.safetensors")
    loaded = slim.load(tmp_path / "net.safetensors", into=Chain()).eval()
    assert loaded.slim.widths == PLANS
    again = slim.load(tmp_path / "net.safetensors", into=switchable()).eval()
    for plan in PLANS.widths:
        slim.set_width(net, plan)
        expected = net(X)
        for other in (loaded, again, copy.deepcopy(net)):
            slim.set_width(other, plan)
            assert torch.equal(other(X), expected)
        frozen = slim.freeze(net)
        slim.set_width(frozen, plan)
        torch.testing.assert_close(frozen(X), expected)
        torch.testing.assert_close(slim.extract(net, plan)(X), expected)


def test_a_file_of_number_switches_reads_as_before(tmp_path: Path) -> None:
    numbers = slim.Switches(0.5, 1.0)
    net = slim.convert(Residual(), image(), widths=numbers, norm="switchable")
    slim.save(net, tmp_path / "net.safetensors")
    assert slim.load(tmp_path / "net.safetensors", into=Residual()).slim.widths == numbers


def test_a_norm_that_stays_full_has_private_statistics_too() -> None:
    last = "features.4"
    net = slim.convert(MobileNet(), image(), widths=slim.Switches(0.5, 1.0), norm="switchable", keep=[last])
    kept = [m for n, m in net.named_modules() if n.startswith(last) and isinstance(m, nn.BatchNorm2d)]
    assert kept
    slim.set_width(net, 0.5)
    for norm in kept:
        assert norm.running_mean.shape == norm._buffers["running_mean"].shape
        assert norm.running_mean is not norm._buffers["running_mean"]
