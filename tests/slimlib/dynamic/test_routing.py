"""A width for each sample: what is routed equals each sample run by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.structures import map_tensors, tensors
from slimlib.dynamic.grouping import Group, fastest, without_small
from tests.converting import made_slimmable
from tests.networks import NETWORKS

WIDTHS = (0.25, 0.5, 0.75, 1.0)
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


def batch_of(name: str, samples: int) -> tuple[Any, ...]:
    """Different samples for a network of the tests."""
    torch.manual_seed(1)
    example = NETWORKS[name]()[1]

    def more(tensor: Tensor) -> Tensor:
        return torch.cat([tensor.roll(number, -1) for number in range(samples)])[:samples]

    return map_tensors(more, example)


def converted(name: str) -> nn.Module:
    torch.manual_seed(0)
    net, example = NETWORKS[name]()
    net = made_slimmable(name, net, example, divisor=4)
    slim.calibrate(net, [batch_of(name, 8)], WIDTHS)
    return net.eval()


def one_by_one(net: nn.Module, args: tuple[Any, ...], widths: Sequence[Any]) -> list[Any]:
    outputs = []
    for sample, width in enumerate(widths):
        with slim.at_width(net, width):
            outputs.append(net(*map_tensors(lambda t, i=sample: t[i : i + 1], args)))
    return outputs


def assert_equal(whole: Any, alone: Sequence[Any]) -> None:
    for sample, output in enumerate(alone):
        for got, expected in zip(tensors(whole), tensors(output), strict=True):
            torch.testing.assert_close(got[sample : sample + 1], expected, **ROUNDING)


@pytest.mark.parametrize("name", NETWORKS)
def test_routed_equals_each_sample_alone(name: str) -> None:
    net, args, widths = converted(name), batch_of(name, 6), [0.5, 0.25, 1.0, 0.5, 0.75, 0.25]
    slim.set_width(net, 0.75)
    with torch.no_grad():
        whole, alone = slim.route(net, args, widths), one_by_one(net, args, widths)
    assert_equal(whole, alone)
    assert slim.current_width(net) == 0.75


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    return converted("mobilenet")


@pytest.fixture(scope="module")
def frozen(mobilenet: nn.Module) -> nn.Module:
    return slim.freeze(mobilenet, WIDTHS)


IMAGES = torch.randn(9, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@given(st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_any_mixture_of_widths(mobilenet: nn.Module, frozen: nn.Module, widths: list[float]) -> None:
    x = IMAGES[: len(widths)]
    with torch.no_grad():
        alone = torch.cat(one_by_one(mobilenet, (x,), widths))
        torch.testing.assert_close(slim.route(mobilenet, x, widths), alone, **ROUNDING)
        torch.testing.assert_close(slim.route(frozen, x, torch.tensor(widths)), alone, **ROUNDING)


def test_gradients_are_those_of_each_sample_alone(mobilenet: nn.Module) -> None:
    widths = [0.25, 1.0, 0.5, 0.25]
    found = []
    for run in (lambda x: slim.route(mobilenet, x, widths), lambda x: torch.cat(one_by_one(mobilenet, (x,), widths))):
        x = IMAGES[:4].clone().requires_grad_()
        mobilenet.zero_grad()
        run(x).square().sum().backward()
        found.append([x.grad, *(p.grad.clone() for p in mobilenet.parameters())])
    for routed, alone in zip(*found, strict=True):
        torch.testing.assert_close(routed, alone, rtol=1e-3, atol=1e-4)


def test_plans_and_numbers_of_equal_channels_run_together(mobilenet: nn.Module) -> None:
    plan = slim.WidthPlan(mobilenet.slim.channels_at(0.5))
    sizes: list[int] = []
    hook = mobilenet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    with torch.no_grad():
        got = slim.route(mobilenet, IMAGES[:4], [plan, 1.0, 0.5, 1.0])
    hook.remove()
    assert sizes == [2, 2]
    assert_equal(got, one_by_one(mobilenet, (IMAGES[:4],), [0.5, 1.0, 0.5, 1.0]))


@pytest.mark.parametrize("kind", [slim.convert, slim.freeze])
def test_switches_that_float32_cannot_hold(kind: Callable[..., nn.Module]) -> None:
    net = slim.convert(nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 2)), torch.randn(2, 8), divisor=1,
                       widths=slim.Switches(0.1, 1 / 3, 1.0)).eval()  # fmt: skip
    if kind is slim.freeze:
        net = slim.freeze(net)
    x = torch.randn(3, 8)
    for widths in (tensor := torch.tensor([1 / 3, 0.1, 1.0]), tensor.numpy()):
        assert_equal(slim.route(net, x, widths), one_by_one(net, (x,), [1 / 3, 0.1, 1.0]))


@dataclass
class Found:
    scores: Tensor
    more: dict[str, Any]


class OfManyParts(nn.Module):
    """Takes and returns structures: {"image": [N, 8], "pair": ([N, 4], [N])} and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 32), nn.Linear(32, 3)

    def forward(self, seen: dict[str, Any], factor: Tensor) -> Found:
        pair, weight = seen["pair"]
        hidden = self.a(torch.cat([seen["image"], pair], 1)).relu()
        return Found(self.b(hidden) * factor, {"weights": [weight, weight + 1], "name": "found"})


def test_any_structure_goes_in_and_comes_out() -> None:
    torch.manual_seed(0)
    args = ({"image": torch.randn(5, 8), "pair": (torch.randn(5, 4), torch.arange(5))}, torch.tensor(2.0))
    net = slim.convert(OfManyParts(), args)
    widths = [1.0, 0.25, 0.5, 0.25, 1.0]
    whole = slim.route(net, args, widths)
    assert isinstance(whole, Found) and whole.more["name"] == "found"
    assert whole.more["weights"][0].tolist() == [0, 1, 2, 3, 4]
    for i, width in enumerate(widths):
        with slim.at_width(net, width):
            own = net(
                {"image": args[0]["image"][i : i + 1], "pair": tuple(t[i : i + 1] for t in args[0]["pair"])}, args[1]
            )
        torch.testing.assert_close(whole.scores[i : i + 1], own.scores, **ROUNDING)


def test_arguments_by_name_and_one_group() -> None:
    net = slim.convert(
        OfManyParts(), ({"image": torch.randn(2, 8), "pair": (torch.randn(2, 4), torch.ones(2))}, torch.ones(()))
    )
    named = {"seen": {"image": torch.randn(3, 8), "pair": (torch.randn(3, 4), torch.ones(3))}, "factor": torch.ones(())}
    with slim.at_width(net, 0.5):
        expected = net(**named).scores
    torch.testing.assert_close(slim.route(net, named, [0.5] * 3).scores, expected)


def test_channels_last_stays(frozen: nn.Module) -> None:
    seen: list[bool] = []
    net = frozen
    x = IMAGES[:4].to(memory_format=torch.channels_last)
    for module in net.slim.nets.values():
        module.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].is_contiguous(memory_format=torch.channels_last))
        )
    slim.route(net, x, [0.25, 1.0, 0.25, 1.0])
    for module in net.slim.nets.values():
        module._forward_pre_hooks.clear()
    assert seen == [True, True]


def test_an_empty_batch() -> None:
    net = slim.convert(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2)), torch.randn(2, 8))
    assert slim.route(net, torch.empty(0, 8), []).shape == (0, 2)


def group(width: float, *samples: int) -> Group:
    return Group(width, samples)


def test_small_groups_join_the_next_wider() -> None:
    groups = [group(0.25, 0, 3), group(0.5, 2), group(0.75, 5, 6, 7), group(1.0, 1)]
    assert without_small(groups, 3) == [group(0.5, 0, 2, 3), group(0.75, 5, 6, 7), group(1.0, 1)]
    assert without_small(groups, 4) == [group(0.75, 0, 2, 3, 5, 6, 7), group(1.0, 1)]
    assert without_small(groups, 1) == groups
    assert without_small(groups, 9) == [group(1.0, 0, 1, 2, 3, 5, 6, 7)]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.floats(0, 5))
def test_joined_groups_take_least(sizes: list[int], overhead: float) -> None:
    places = iter(range(sum(sizes)))
    groups = [Group((i + 1) / 10, tuple(next(places) for _ in range(size))) for i, size in enumerate(sizes)]

    def seconds(width: float, samples: int) -> float:
        return overhead + width**2 * samples

    def total(made: Sequence[Group]) -> float:
        return sum(seconds(g.width, len(g.samples)) for g in made)

    every = []  # any way to join neighbours
    for bits in range(2 ** (len(groups) - 1)):
        made, waiting = [], ()
        for i, g in enumerate(groups):
            waiting += g.samples
            if i == len(groups) - 1 or bits >> i & 1:
                made.append(Group(g.width, waiting))
                waiting = ()
        every.append(total(made))
    best = fastest(groups, seconds)
    assert total(best) == pytest.approx(min(every))
    assert sorted(s for g in best for s in g.samples) == list(range(sum(sizes)))
    widths = {s: g.width for g in best for s in g.samples}
    assert all(widths[s] >= g.width for g in groups for s in g.samples)


def test_small_groups_are_computed_at_the_wider_width(mobilenet: nn.Module) -> None:
    with torch.no_grad():
        got = slim.route(mobilenet, IMAGES[:4], [0.25, 1.0, 0.5, 0.5], smallest_group=2)
        assert_equal(got, one_by_one(mobilenet, (IMAGES[:4],), [0.5, 1.0, 0.5, 0.5]))


def test_what_is_measured_runs_each_sample_no_narrower_than_asked(frozen: nn.Module) -> None:
    widths = [0.25, 0.5, 0.75, 0.25]
    got = slim.route(frozen, IMAGES[:4], widths, smallest_group="measured")
    outputs = {w: one_by_one(frozen, (IMAGES[:4],), [w] * 4) for w in WIDTHS}
    for i, width in enumerate(widths):
        fits = [torch.allclose(got[i], outputs[w][i][0], **ROUNDING) for w in WIDTHS if w >= width]
        assert any(fits)


class Means(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.how = nn.Linear(8, 16), nn.Linear(16, 2), how

    def forward(self, x: Tensor) -> Any:
        y = self.b(self.a(x))
        return {"mean": y.mean(), "number": (y, float(len(x))), "nothing": None, "per class": y.mean(0)}[self.how]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("mean", r"shape \[\] for 3 samples: what it returns must have the batch as its first dimension"),
        ("per class", r"shape \[2\] for 3 samples"),
        ("number", "returned a value that is no tensor and differs between groups"),
        ("nothing", "returned NoneType, in which no batch can be found"),
    ],
)
def test_outputs_without_a_batch(how: str, says: str) -> None:
    net = Means("number" if how != "number" else how)
    x = torch.randn(4, 8)
    net = slim.convert(net, x)
    net.how = how
    with pytest.raises(ValueError, match=says):
        slim.route(net, x, [0.5, 0.5, 0.5, 1.0])


@pytest.mark.parametrize(
    ("x", "widths", "says"),
    [
        (torch.randn(3, 3, 16, 16), [0.5, 1.0], "2 widths for 3 samples"),
        (torch.randn(3, 3, 16, 16), [0.5, 1.0, 1.5], "width 1.5 is outside"),
        (torch.randn(3, 3, 16, 16), torch.ones(3, 1), r"shape \[3, 1\]"),
        (
            torch.randn(3, 3, 16, 16),
            0.5,
            r"one for each of 3 samples, not 0.5; .* call slimlib.set_width\(net, width\)",
        ),
        (torch.randn(2, 3, 16, 16), ["wide", 1.0], "neither a number"),
        ({"a": 1}, [1.0], "there is no batch here"),
        (
            (torch.randn(2, 3), torch.randn(3, 3)),
            [1.0, 1.0],
            "different numbers of samples: .*put what all samples share",
        ),
    ],
)
def test_what_does_not_fit(mobilenet: nn.Module, x: Any, widths: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        slim.route(mobilenet, x, widths)


@pytest.mark.parametrize("smallest", [0, -1, 1.5, True, "all"])
def test_impossible_smallest_groups(mobilenet: nn.Module, smallest: Any) -> None:
    with pytest.raises(ValueError, match="must be a number of samples, at least 1, or 'measured'"):
        slim.route(mobilenet, IMAGES[:2], [0.5, 1.0], smallest_group=smallest)


def test_widths_that_were_never_calibrated(mobilenet: nn.Module, frozen: nn.Module) -> None:
    with pytest.raises(slim.UncalibratedWidth, match=r"width 0.6 has no BatchNorm statistics.*calibrate"):
        slim.route(mobilenet, IMAGES[:2], [0.6, 1.0])
    with pytest.raises(ValueError, match="width 0.6 was not frozen; frozen: 0.25, 0.5, 0.75, 1"):
        slim.route(frozen, IMAGES[:2], [0.6, 1.0])
    assert slim.current_width(frozen) == 0.25


def test_norms_that_look_at_the_batch() -> None:
    net = converted("mobilenet").train()
    with pytest.raises(ValueError, match=r"layer 'features.0.1' .* normalises by the batch.*call net.eval"):
        slim.route(net, IMAGES[:2], [0.5, 1.0])
    plain = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16, track_running_stats=False), nn.Conv2d(16, 2, 1))
    with pytest.raises(ValueError, match="layer '1' .*track_running_stats=True"):
        slim.route(slim.convert(plain, IMAGES[:2]).eval(), IMAGES[:2], [0.5, 1.0])


def test_a_network_that_is_not_slimmable() -> None:
    with pytest.raises(ValueError, match="nothing in this Linear is slimmable"):
        slim.route(nn.Linear(3, 2), torch.randn(2, 3), [1.0, 1.0])
