"""Non-uniform widths: every group of layers draws its own."""

from __future__ import annotations

import copy

import torch
from torch import nn

import slimlib as slim
from slimlib.training.nonuniform import NonuniformSandwich, random_plan
from slimlib.training.step import Step

RANGE = slim.WidthRange(0.25, 1.0)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 3)]
    return slim.convert(nn.Sequential(*layers), torch.randn(2, 6), widths=RANGE)


def test_the_layers_of_a_plan_draw_independently_and_stay_in_the_range() -> None:
    net, generator = network(), torch.Generator().manual_seed(0)
    full = net.slim.layout.full
    plans = [random_plan(net, RANGE, generator).channels for _ in range(200)]
    smallest, largest = net.slim.channels_at(0.25), full
    for channels in zip(*plans, strict=True):
        assert len(set(channels)) > 3
    assert all(low <= c <= high for p in plans for low, c, high in zip(smallest, p, largest, strict=True))
    shares = torch.tensor(plans) / torch.tensor(full)
    correlation = torch.corrcoef(shares.T)
    assert (correlation - torch.eye(len(full))).abs().max() < 0.3


def test_ends_are_uniform_and_draws_go_on_from_a_state() -> None:
    net = network()
    rule = NonuniformSandwich(RANGE, samples=4, seed=3)
    first = rule.draw(Step(net))
    assert first[0] == 1.0 and first[-1] == 0.25
    assert all(isinstance(width, slim.WidthPlan) for width in first[1:-1]) and len(first) == 4
    state = rule.state_dict()
    second = rule.draw(Step(net))
    other = NonuniformSandwich(RANGE, samples=4, seed=9)
    other.load_state_dict(state)
    assert other.draw(Step(net)) == second != first


def test_plans_come_from_wide_to_narrow() -> None:
    net = network()
    rule = NonuniformSandwich(slim.WidthRange(0.25, 1.0), samples=5, seed=0)
    for _ in range(20):
        sizes = [sum(net.slim.channels_at(width)) for width in rule.draw(Step(net))]
        assert sizes == sorted(sizes, reverse=True)


def test_gradients_are_the_sum_over_the_plans() -> None:
    net = network()
    by_hand = copy.deepcopy(net)
    x, target = torch.randn(8, 6), torch.randn(8, 3)

    def loss(output: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(output, target)

    NonuniformSandwich(RANGE, samples=4, seed=1).backward(net, x, loss)
    for width in NonuniformSandwich(RANGE, samples=4, seed=1).draw(Step(by_hand)):
        with slim.at_width(by_hand, width):
            loss(by_hand(x)).backward()
    for one, other in zip(net.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
