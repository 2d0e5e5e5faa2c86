"""Incremental training leaves what narrower switches compute with exactly as it is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import slimlib as slim
from slimlib.core.setting import in_use
from slimlib.training.incremental import Incremental, only_added

SWITCHES = slim.Switches(0.25, 0.5, 1.0)


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    wrap = parametrizations.weight_norm if kind == "weight norm" else lambda layer: layer
    norm = nn.BatchNorm2d(32) if kind in ("universal", "switchable", "shared") else nn.Identity()
    net = nn.Sequential(
        wrap(nn.Conv2d(3, 32, 3)), norm, nn.ReLU(), wrap(nn.Conv2d(32, 32, 3, groups=1)), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    kept = kind if kind in ("switchable", "shared") else "universal"
    return slim.convert(net, torch.randn(2, 3, 8, 8), widths=SWITCHES, norm=kept)


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 3, 8, 8, generator=generator), torch.randint(5, (8,), generator=generator)


@pytest.mark.parametrize("kind", ["universal", "switchable", "weight norm"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_neither_decay_nor_momentum_moves_a_narrower_switch(kind: str, optimizer: str) -> None:
    net, rule = network(kind).train(), Incremental(SWITCHES)
    before: dict[float, list[Tensor]] = {}
    for number, width in enumerate(SWITCHES.widths):
        made: torch.optim.Optimizer = (
            torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.1, nesterov=True)
            if optimizer == "sgd"
            else torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.1)
        )
        start = [parameter.detach().clone() for parameter in net.parameters()]
        with rule.stage(number, net, made):
            for step in range(3):
                x, y = batch(step)
                made.zero_grad()
                losses = rule.backward(net, x, lambda out, y=y: F.cross_entropy(out, y))
                made.step()
                assert list(losses) == [width]
        for narrower, outputs in before.items():
            assert all(torch.equal(*pair) for pair in zip(seen(net, narrower), outputs, strict=True))
        before[width] = seen(net, width)
        wider = in_use(net, width)
        for parameter, value in zip(net.parameters(), start, strict=True):
            added = wider.get(parameter, torch.zeros_like(parameter, dtype=torch.bool))
            assert torch.equal(parameter[~added], value[~added]), "what no switch has used so far has its first weights"
        assert any(not torch.equal(p, value) for p, value in zip(net.parameters(), start, strict=True))


def seen(net: nn.Module, width: float) -> list[Tensor]:
    """What a width puts out in training, and all that it computes with."""
    with torch.no_grad():
        net.train()
        with slim.at_width(net, width):
            output = net(batch(9)[0])
    return [output, *(parameter.detach()[used].clone() for parameter, used in in_use(net, width).items())]


@pytest.mark.parametrize("kind", ["universal", "switchable", "weight norm"])
@pytest.mark.parametrize("width", SWITCHES.widths)
def test_what_a_width_uses_is_what_its_dense_network_has(kind: str, width: float) -> None:
    net = network(kind)
    if kind == "universal":
        slim.calibrate(net, [batch(0)[0]], SWITCHES.widths)
    used = sum(int(mask.sum()) for mask in in_use(net, width).values())
    assert used == slim.cost(net, batch(0)[0], width).params


def test_after_the_stage_the_optimizer_moves_everything_again() -> None:
    net = network("universal")
    made = torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.1)
    with only_added(net, 0.5, (0.25,), made):
        pass
    before = [parameter.detach().clone() for parameter in net.parameters()]
    F.cross_entropy(net(batch(0)[0]), batch(0)[1]).backward()
    made.step()
    assert not any(torch.equal(p, value) for p, value in zip(net.parameters(), before, strict=True))


def test_stages_share_the_steps_or_have_as_many_each() -> None:
    assert Incremental(SWITCHES).ends(10) == [10, 20, 30]
    assert Incremental(SWITCHES, share="equal").ends(10) == [3, 6, 10]
    with pytest.raises(ValueError, match="2 steps are too few for 3 stages"):
        Incremental(SWITCHES, share="equal").ends(2)


def test_statistics_that_every_width_moves_are_refused() -> None:
    net = network("shared")
    made = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(ValueError, match="norm 'shared' has statistics"), only_added(net, 0.5, (0.25,), made):
        pass


def test_stages_that_do_not_exist_and_the_optimizer_of_another_network_are_refused() -> None:
    rule, net = Incremental(SWITCHES), network("universal")
    for number in (-1, 3):
        with pytest.raises(ValueError, match=f"no stage {number}; .* have the stages 0 to 2"):
            rule.stage(number, net, torch.optim.SGD(net.parameters(), 0.1)).__enter__()
    with pytest.raises(ValueError, match="SGD trains none of the parameters that the width 0.25 adds"):
        rule.stage(0, net, torch.optim.SGD(network("universal").parameters(), 0.1)).__enter__()
