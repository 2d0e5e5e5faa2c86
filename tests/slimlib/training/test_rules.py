"""What each rule draws, and that one `backward` is the sum of the passes it stands for."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slimlib.convert import convert
from slimlib.core.handwritten import adopt
from slimlib.core.layers import SlimLinear
from slimlib.core.setting import at_width, current_width, set_width
from slimlib.core.width import Switches, WidthPlan, WidthRange
from slimlib.training.distillation import mse, soft_cross_entropy
from slimlib.training.rule import Rule
from slimlib.training.sandwich import (
    EveryWidth,
    LargestAlone,
    LargestAndRandom,
    RandomWidths,
    Sandwich,
    SingleWidth,
    SmallestAndRandom,
)

RANGE, SWITCHES = WidthRange(0.25, 1.0), Switches(0.25, 0.5, 0.75, 1.0)


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return adopt(
        nn.Sequential(SlimLinear(6, 32), nn.ReLU(), SlimLinear(32, 24), nn.ReLU(), SlimLinear(24, 3, slim_output=False))
    )


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)


def gradients(net: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()]


def fresh_gradients(net: nn.Module, run: Callable[[], Any]) -> list[Tensor]:
    net.zero_grad()
    run()
    return gradients(net)


@given(low=st.floats(0.05, 0.95), samples=st.integers(2, 7), seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_a_sandwich_holds_both_ends_and_distinct_widths_between(low: float, samples: int, seed: int) -> None:
    widths = Sandwich(WidthRange(low, 1.0), samples, seed=seed).draw()
    assert len(set(widths)) == samples
    assert widths == sorted(widths, reverse=True)
    assert (widths[0], widths[-1]) == (1.0, low)


@pytest.mark.parametrize(
    ("rule", "always"),
    [
        (RandomWidths(RANGE, 3), set()),
        (SmallestAndRandom(RANGE, 3), {0.25}),
        (LargestAndRandom(RANGE, 3), {1.0}),
        (Sandwich(RANGE, 3), {0.25, 1.0}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_draw_holds_the_fixed_widths_and_spreads_the_rest_over_the_range(rule: Rule, always: set[float]) -> None:
    draws = [rule.draw() for _ in range(300)]
    free = [w for draw in draws for w in draw if w not in always]
    assert all(always <= set(draw) and len(draw) == 3 for draw in draws)
    assert len(free) == 300 * (3 - len(always))
    assert min(free) < 0.28
    assert max(free) > 0.97
    assert sum(free) / len(free) == pytest.approx(0.625, abs=0.05)


def test_random_switches_are_drawn_without_repetition_and_all_of_them_in_time() -> None:
    rule = Sandwich(SWITCHES, 3)
    draws = [rule.draw() for _ in range(50)]
    assert {tuple(draw) for draw in draws} == {(1.0, 0.75, 0.25), (1.0, 0.5, 0.25)}
    assert Sandwich(SWITCHES, 4).draw() == EveryWidth(SWITCHES).draw() == [1.0, 0.75, 0.5, 0.25]


def test_draws_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = [Sandwich(RANGE, seed=5).draw() for _ in range(3)]
    torch.manual_seed(2)
    assert [Sandwich(RANGE, seed=5).draw() for _ in range(3)] == first
    assert Sandwich(RANGE, seed=6).draw() != first[0]


def test_draws_go_on_from_a_state_of_plain_numbers() -> None:
    rule = Sandwich(RANGE, seed=5)
    rule.draw()
    state = json.loads(json.dumps(rule.state_dict()))
    rest = [rule.draw() for _ in range(3)]
    resumed = Sandwich(RANGE, seed=9)
    resumed.load_state_dict(state)
    assert [resumed.draw() for _ in range(3)] == rest


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sandwich(RANGE, 1), "at least 2 samples a step, a whole number, not 1"),
        (lambda: RandomWidths(RANGE, 0), "at least 1 samples"),
        (lambda: Sandwich(SWITCHES, 5), "cannot draw 5 different widths"),
        (lambda: RandomWidths(RANGE, 3, mse), "cannot distil from the largest width, which is not in every step"),
        (lambda: SmallestAndRandom(RANGE, 3, mse), "cannot distil from the largest width, which is not in every step"),
        (lambda: Sandwich([0.25, 1.0]), r"widths=\[0.25, 1.0\] must be Switches, such as"),  # type: ignore[arg-type]
        (lambda: RandomWidths(0.5), "widths=0.5 must be Switches, such as"),  # type: ignore[arg-type]
        (lambda: LargestAlone([0.5]), r"widths=\[0.5\] must be Switches"),  # type: ignore[arg-type]
        (lambda: EveryWidth(RANGE), "list of switches"),  # type: ignore[arg-type]
        (lambda: Sandwich(RANGE, seed=None), "seed=None must be a whole number"),  # type: ignore[arg-type]
    ],
)
def test_impossible_rules_are_refused(make: Callable[[], Rule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("distill", [None, soft_cross_entropy])
def test_one_backward_is_the_sum_of_separate_passes(distill: Any) -> None:
    net, (x, target) = perceptron(), batch()
    widths = Sandwich(RANGE, 4, seed=3).draw()

    def separate() -> None:
        teacher = None
        for width in widths:
            with at_width(net, width):
                out = net(x)
                if distill is None or teacher is None:
                    F.cross_entropy(out, target).backward()
                    teacher = out.detach()
                else:
                    distill(out, teacher).backward()

    expected = fresh_gradients(net, separate)
    rule = Sandwich(RANGE, 4, distill, seed=3)
    actual = fresh_gradients(net, lambda: rule.backward(net, x, lambda out: F.cross_entropy(out, target)))
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_distillation_changes_the_gradient() -> None:
    net, (x, target) = perceptron(), batch()
    plain, distilled = (
        fresh_gradients(
            net, lambda d=d: Sandwich(RANGE, 4, d).backward(net, x, lambda out: F.cross_entropy(out, target))
        )
        for d in (None, soft_cross_entropy)
    )
    assert not torch.allclose(plain[0], distilled[0])


def test_the_teacher_learns_nothing_from_its_students() -> None:
    net, (x, target) = perceptron(), batch()

    def loss(out: Tensor) -> Tensor:
        return F.cross_entropy(out, target)

    at_largest = fresh_gradients(net, lambda: loss(net(x)).backward())
    rule = LargestAndRandom(RANGE, 2, distill=lambda student, teacher: 0 * mse(student, teacher))
    actual = fresh_gradients(net, lambda: rule.backward(net, x, loss))
    assert all(torch.equal(a, b) for a, b in zip(actual, at_largest, strict=True))


def test_only_the_largest_width_is_ordinary_training() -> None:
    net, (x, target) = perceptron(), batch()

    def loss(out: Tensor) -> Tensor:
        return F.cross_entropy(out, target)

    ordinary = fresh_gradients(net, lambda: loss(net(x)).backward())
    for rule in (SingleWidth(1.0), Sandwich(WidthRange(1.0, 1.0)), EveryWidth(Switches(1.0), distill=mse)):
        actual = fresh_gradients(net, lambda rule=rule: rule.backward(net, x, loss))
        assert all(torch.equal(a, b) for a, b in zip(actual, ordinary, strict=True))


def test_losses_come_back_detached_by_width_and_the_width_stays_as_set() -> None:
    net, (x, target) = perceptron(), batch()
    set_width(net, 0.5)
    losses = EveryWidth(SWITCHES).backward(net, x, lambda out: F.cross_entropy(out, target))
    assert current_width(net) == 0.5
    assert list(losses) == [1.0, 0.75, 0.5, 0.25]
    assert not any(value.requires_grad for value in losses.values())
    for width, value in losses.items():
        with at_width(net, width):
            assert torch.equal(F.cross_entropy(net(x), target), value)


def test_the_width_stays_as_set_when_a_loss_fails() -> None:
    net, (x, _) = perceptron(), batch()
    set_width(net, 0.5)
    with pytest.raises(ZeroDivisionError):
        Sandwich(RANGE).backward(net, x, lambda out: out.sum() / (1 // 0))
    assert current_width(net) == 0.5


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda out: out.square(), r"loss returned a tensor \[8, 3\]; it must return a tensor of one number"),
        (lambda out: out.sum().item(), r"loss returned .*, such as the mean over the batch, not its .item\(\)"),
        (lambda out: None, "loss returned None"),
        (nn.CrossEntropyLoss(), r"CrossEntropyLoss takes a target, .*: lambda output: loss\(output, target\)"),
        (F.cross_entropy, "cross_entropy takes a target"),
    ],
)
def test_what_is_no_loss_is_explained(loss: Any, says: str) -> None:
    net, (x, _) = perceptron(), batch()
    with pytest.raises(ValueError, match=says):
        Sandwich(RANGE).backward(net, x, loss)
    with pytest.raises(ValueError, match=r"distill returned a tensor \[8, 3\]"):
        Sandwich(RANGE, distill=lambda a, b: a - b).backward(net, x, Tensor.sum)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Sandwich(WidthRange(0.2), seed=1), "width 0.2 is outside what this network was converted for"),
        (lambda: RandomWidths(WidthRange(0.2), 1), "width 0.2 is outside"),
        (lambda: EveryWidth(Switches(0.2, 1.0)), "width 0.2 is outside"),
        (lambda: EveryWidth(Switches(WidthPlan([8, 99]), WidthPlan([32, 24]))), "asks for 99 channels"),
    ],
)
def test_widths_that_a_network_does_not_have_are_refused_before_any_pass(make: Callable[[], Rule], says: str) -> None:
    x, _ = batch()
    net = convert(nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 24), nn.Linear(24, 3)), x, widths=RANGE)
    rule = make()
    state = rule.state_dict()
    with pytest.raises(ValueError, match=says):
        rule.backward(net, x, Tensor.sum)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert rule.state_dict() == state


def test_a_loss_that_nothing_learns_from_adds_nothing_as_long_as_another_is_learned_from() -> None:
    net, (x, labels), rule = perceptron(), batch(), EveryWidth(Switches(0.5, 1.0))

    def without_narrow(out: Tensor, width: float) -> Tensor:
        return F.cross_entropy(out if width == 1.0 else out.detach(), labels)

    alone = fresh_gradients(net, lambda: F.cross_entropy(net(x), labels).backward())
    assert all(map(torch.equal, fresh_gradients(net, lambda: rule.backward(net, x, without_narrow)), alone))
    net.requires_grad_(False)
    with pytest.raises(RuntimeError, match="does not require grad"):
        rule.backward(net, x, without_narrow)


def test_several_arguments_and_outputs_of_any_structure() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = SlimLinear(6, 32), SlimLinear(32, 3, slim_output=False)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
            return {"main": self.b(self.a(x + y)), "more": (self.b(self.a(x)), "text")}

    net, (x, _) = adopt(Two()), batch()
    seen: list[Any] = []

    def distill(student: dict[str, Any], teacher: dict[str, Any]) -> Tensor:
        seen.append((teacher["main"].requires_grad, teacher["more"][0].requires_grad, teacher["more"][1]))
        return mse(student["main"], teacher["main"])

    Sandwich(RANGE, 2, distill).backward(net, (x, x), lambda out: out["main"].square().mean())
    assert seen == [(False, False, "text")]


def test_each_loss_is_scaled() -> None:
    net, (x, target) = perceptron(), batch()

    def loss(out: Tensor) -> Tensor:
        return F.cross_entropy(out, target)

    plain = fresh_gradients(net, lambda: EveryWidth(SWITCHES).backward(net, x, loss))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    losses: dict[Any, Tensor] = {}
    scaled = fresh_gradients(net, lambda: losses.update(EveryWidth(SWITCHES).backward(net, x, loss, scaler=scaler)))
    torch.testing.assert_close(scaled, [8 * g for g in plain])
    assert losses[1.0] == loss(net(x))


def test_autocast_around_the_step() -> None:
    net, (x, target) = perceptron(), batch()

    def loss(out: Tensor) -> Tensor:
        assert out.dtype == torch.bfloat16
        return F.cross_entropy(out.float(), target)

    exact = fresh_gradients(net, lambda: Sandwich(RANGE).backward(net, x, lambda out: F.cross_entropy(out, target)))
    with torch.autocast("cpu", torch.bfloat16):
        rough = fresh_gradients(net, lambda: Sandwich(RANGE).backward(net, x, loss))
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)


def test_an_output_is_gone_before_the_next_width_runs() -> None:
    net, (x, target) = perceptron(), batch()
    outputs: list[weakref.ref[Tensor]] = []

    def loss(out: Tensor) -> Tensor:
        assert [ref() for ref in outputs] == [None] * len(outputs)
        outputs.append(weakref.ref(out))
        return F.cross_entropy(out, target)

    Sandwich(RANGE, 5).backward(net, x, loss)
    assert len(outputs) == 5


@pytest.mark.parametrize("distill", [None, soft_cross_entropy])
def test_autocast_computes_the_network_in_lower_precision_and_the_losses_in_full(distill: Any) -> None:
    torch.manual_seed(0)
    net = perceptron()
    seen: list[torch.dtype] = []
    inside: list[torch.dtype] = []
    net[1].register_forward_hook(lambda _m, _a, out: inside.append(out.dtype))

    def loss(output: Tensor) -> Tensor:
        seen.append(output.dtype)
        return output.square().mean()

    rule = Sandwich(RANGE, samples=3, distill=distill)
    losses = rule.backward(net, batch()[0], loss, autocast=torch.bfloat16)
    assert set(seen) == {torch.float32} and set(inside) == {torch.bfloat16}
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())
