"""What plans share at their beginning is computed once, and nothing changes by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

import slimlib as slim
from slimlib.models import build
from slimlib.search import reuse
from slimlib.search.evaluation import Evaluation
from tests.networks import DepthwiseResidual, MobileNet, Residual
from tests.slimlib.search.searched import CALIBRATION, IMAGES, chain, loss


def evaluation(net: nn.Module, score: Callable[[nn.Module], float] = loss) -> Evaluation:
    return Evaluation(net, score, CALIBRATION)


def one_step_less(net: nn.Module, step: int = 8) -> list[tuple[int, ...]]:
    """The plans that greedy compares at its first step, and some that share little."""
    full = net.slim.layout.full
    single = [tuple(c - step * (g == i) if c > step else c for i, c in enumerate(full)) for g in range(len(full))]
    return list(dict.fromkeys([*single, full, net.slim.channels_at(0.5), net.slim.channels_at(0.25)]))


def without_reuse(net: nn.Module, plans: list[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
    plain = evaluation(net)
    plain.reuse = None
    return dict(plain.scores(plans))


class Nested(nn.Module):
    """A chain inside of a chain, with in-place activations and a tail of its own."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(nn.Sequential(*layers), nn.Sequential(nn.Conv2d(16, 24, 3), nn.BatchNorm2d(24)))
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 10]
        x = self.act(self.body(x))
        return self.head(x.mean((2, 3)))


class Inner(nn.Module):
    """All of the network is one module of another, as wrappers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Nested()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).log_softmax(1)


class WritesFirst(nn.Module):
    """Writes into what it is given, which is where a plan may begin."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.sigmoid_())


def written_to() -> nn.Module:
    blocks = [WritesFirst(16, 24), WritesFirst(24, 32), WritesFirst(32, 16)]
    return nn.Sequential(nn.Conv2d(3, 16, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


CHAINS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # how many modules follow one another
    "sequence": (MobileNet, 15),
    "then a function": (Residual, 2),
    "nested, in place": (Nested, 6),
    "inside of another": (Inner, 6),
    "written to": (written_to, 7),
}


@pytest.mark.parametrize("name", CHAINS)
def test_scores_are_the_same_bit_for_bit(name: str) -> None:
    make, modules = CHAINS[name]
    torch.manual_seed(0)
    net = slim.convert(make(), IMAGES[:2])
    scoring = evaluation(net)
    assert scoring.reuse is not None and len(scoring.reuse.chain.modules) == modules
    plans = one_step_less(net)
    found = dict(scoring.scores(plans))
    assert scoring.reuse is not None
    assert found == without_reuse(net, plans)
    assert len(set(found.values())) == len(plans)


def test_a_published_network_is_scored_the_same_bit_for_bit() -> None:
    torch.manual_seed(0)
    net = build("mobilenet_v1", classes=10, size=32, multiplier=0.25)
    slim.convert(net, IMAGES[:2], **net.channel_rule)
    plans = one_step_less(net)
    assert dict(evaluation(net).scores(plans)) == without_reuse(net, plans)


def test_a_head_for_each_band_is_no_part_that_plans_share() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    slim.convert(net.append(nn.Linear(16, 10)), IMAGES[:2], heads={"0": 2})
    for name, parameter in net[0].named_parameters():
        nn.init.normal_(parameter, std=1.0 if "weight" in name else 0.1)
    plans = [(8, 16), (8, 8), (16, 8), (16, 16)]
    assert dict(evaluation(net).scores(plans)) == without_reuse(net, plans)


def convolutions_run(net: nn.Module, run: Callable[[], Any]) -> int:
    count = 0

    def hook(*_: Any) -> None:
        nonlocal count
        count += 1

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.nn.functional.conv2d:
                hook()
            return func(*args, **(kwargs or {}))

    assert any(isinstance(module, _ConvNd) for module in net.modules())
    with Counting():
        run()
    return count


def test_the_shared_part_runs_once() -> None:
    """Of 5 convolutions, 2 batches and 2 scored ones: a group's first layer is where its plan begins."""
    net = chain()
    scoring = evaluation(net)
    full = net.slim.layout.full
    plans = [tuple(c - 8 * (g == i) for i, c in enumerate(full)) for g in range(3)]
    shared = convolutions_run(net, lambda: list(scoring.scores(plans)))
    scoring.reuse = None
    apart = convolutions_run(net, lambda: list(scoring.scores(plans)))
    assert apart == 5 * 4 * 3
    # the first two plans run whole (the second differs from the first in its first layer); the third begins where
    # the second has its own channels, at the second group's layer
    assert shared == 4 * (5 + 5 + 3)


def test_what_modules_write_into_is_copied_once_that_was_seen() -> None:
    torch.manual_seed(0)
    net = slim.convert(written_to(), IMAGES[:2])
    scoring, plans = evaluation(net), one_step_less(net)
    runs = [convolutions_run(net, lambda: list(scoring.scores(plans))) for _ in range(3)]
    assert runs[0] > runs[1] == runs[2]


class Skip(nn.Module):
    """What the first module puts out is used once more at the end: it cannot be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(32, 10, 1)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 10]
        a = self.a(x)
        return self.c(torch.cat([a, self.b(a)], 1)).mean((2, 3))


class Twice(nn.Module):
    """One module runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 10, 1)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 10]
        return self.c(self.b(self.b(self.a(x)))).mean((2, 3))


@pytest.mark.parametrize(("make", "modules"), [(Skip, 1), (Twice, 1), (DepthwiseResidual, 2)])
def test_the_chain_ends_where_something_else_uses_what_passes(make: Callable[[], nn.Module], modules: int) -> None:
    torch.manual_seed(0)
    net = slim.convert(make(), IMAGES[:2])
    scoring = evaluation(net)
    found = 0 if scoring.reuse is None else len(scoring.reuse.chain.modules)
    assert found == modules
    plans = one_step_less(net)
    assert dict(scoring.scores(plans)) == without_reuse(net, plans)


def test_a_score_on_other_images_each_time_is_not_mixed_up() -> None:
    """What is kept is of other inputs then: all is computed anew, and reuse ends."""
    net = chain()
    calls = []

    def changing(model: nn.Module) -> float:
        calls.append(None)
        return float(model(IMAGES[: 4 + len(calls) % 2]).square().sum())

    scoring = evaluation(net, changing)
    plans = one_step_less(net)
    found = dict(scoring.scores(plans))
    assert scoring.reuse is None
    assert found.keys() == set(plans)


def test_a_buffer_that_is_filled_anew_is_noticed() -> None:
    net, buffer, turn = chain(), IMAGES[:4].clone(), [0]

    def score(model: nn.Module) -> float:
        turn[0] += 1
        buffer.copy_(IMAGES[turn[0] : turn[0] + 4])
        return float(model(buffer).sum())

    scoring = evaluation(net, score)
    list(scoring.scores(one_step_less(net)))
    assert scoring.reuse is None


def test_what_takes_too_much_memory_is_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "KEPT_BYTES", 100)
    net = chain()
    plans = one_step_less(net)
    assert dict(evaluation(net).scores(plans)) == without_reuse(net, plans)


def test_modules_keep_their_own_forward() -> None:
    net = chain()
    list(evaluation(net).scores(one_step_less(net)))
    assert all("forward" not in module.__dict__ for module in net.modules())

    def broken(_: nn.Module) -> float:
        raise KeyError("a fault of the score")

    with pytest.raises(KeyError, match="a fault of the score"):
        list(evaluation(net, broken).scores(one_step_less(net)))
    assert all("forward" not in module.__dict__ for module in net.modules())


def test_a_score_that_goes_backward_has_the_gradients_of_its_plan() -> None:
    def steepness(net: nn.Module) -> float:
        parameters = list(net.parameters())
        with torch.enable_grad():
            output = net(IMAGES[16:])
            gradients = torch.autograd.grad(output.square().sum(), parameters, allow_unused=True)
        return float(sum(g.square().sum() for g in gradients if g is not None))

    net = chain()
    plans = one_step_less(net)
    alone = evaluation(net, steepness)
    assert alone.reuse is not None
    alone.reuse = None
    assert dict(evaluation(net, steepness).scores(plans)) == dict(alone.scores(plans))
