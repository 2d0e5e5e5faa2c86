"""What a width learns from: weighted data and distillation, and which width has which lesson."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from slimlib.training.distillation import alpha_divergence, as_lessons, lessons_named
from slimlib.training.rule import Rule

RANGE = slim.WidthRange(0.25, 1.0)
X, TARGET = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3
SOFT = slim.soft_cross_entropy


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3)]
    return slim.convert(nn.Sequential(*layers), torch.zeros(2, 6), widths=RANGE)


def loss(output: Tensor) -> Tensor:
    return F.cross_entropy(output, TARGET)


def gradients(net: nn.Module, run: Callable[[], Any]) -> list[Tensor]:
    net.zero_grad()
    run()
    return [p.grad.clone() for p in net.parameters()]


def of_rule(rule: Rule, given: Callable[..., Tensor] = loss) -> list[Tensor]:
    net = network()
    return gradients(net, lambda: rule.backward(net, X, given))


def by_hand(rule: Rule, value: Callable[[int, int, Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Gradients of `value(position, count, output, output of the largest)`, summed over the widths of the rule."""
    net, widths = network(), rule.draw()

    def run() -> None:
        teacher = None
        for position, width in enumerate(widths):
            with slim.at_width(net, width):
                output = net(X)
                teacher = output.detach() if teacher is None else teacher
                value(position, len(widths), output, teacher).backward()

    return gradients(net, run)


def test_the_short_form_is_a_lesson_without_data_at_weight_one() -> None:
    short = of_rule(slim.Sandwich(RANGE, 4, SOFT, seed=3))
    long = of_rule(
        slim.Sandwich(RANGE, 4, lesson=slim.Lesson(data=0, distill=SOFT, weight=1, teacher="largest"), seed=3)
    )
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=True))


def test_a_lesson_of_data_alone_is_no_lesson() -> None:
    plain, lesson = of_rule(slim.Sandwich(RANGE, seed=3)), of_rule(slim.Sandwich(RANGE, lesson=slim.Lesson(), seed=3))
    assert all(torch.equal(a, b) for a, b in zip(plain, lesson, strict=True))


@pytest.mark.parametrize("samples", [2, 3, 5])
@pytest.mark.parametrize("distill", [SOFT, slim.l1, slim.kl_divergence(4.0)], ids=["soft", "l1", "kl"])
def test_the_gradient_is_the_weighted_sum_of_data_and_distillation(samples: int, distill: Any) -> None:
    rule = partial(slim.Sandwich, RANGE, samples, seed=3)
    lesson = slim.Lesson(data=0.25, distill=distill, weight=0.75)

    def value(position: int, _: int, output: Tensor, teacher: Tensor) -> Tensor:
        return loss(output) if position == 0 else 0.25 * loss(output) + 0.75 * distill(output, teacher)

    torch.testing.assert_close(of_rule(rule(lesson=lesson)), by_hand(rule(), value), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("samples", [2, 3, 5])
def test_balanced_is_one_over_the_number_of_students(samples: int) -> None:
    rule = partial(slim.Sandwich, RANGE, samples, seed=3)
    lesson = slim.Lesson(data="balanced", distill=SOFT, weight="balanced")

    def value(position: int, n: int, output: Tensor, teacher: Tensor) -> Tensor:
        return loss(output) if position == 0 else (loss(output) + SOFT(output, teacher)) / (n - 1)

    torch.testing.assert_close(of_rule(rule(lesson=lesson)), by_hand(rule(), value), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("samples", [2, 3, 5])
def test_data_losses_may_be_averaged_over_all_widths(samples: int) -> None:
    rule = partial(slim.Sandwich, RANGE, samples, seed=3)
    mean = by_hand(rule(), lambda _, n, output, __: loss(output) / n)
    torch.testing.assert_close(of_rule(rule(lesson=slim.Lesson(data="mean"))), mean, rtol=1e-6, atol=1e-7)


def test_each_kind_of_width_has_its_lesson() -> None:
    lessons = slim.Lessons(
        slim.Lesson(data=0, distill=slim.l1), smallest=slim.Lesson(data=0.5), largest=slim.Lesson(data=2)
    )
    rule = partial(slim.Sandwich, RANGE, 4, seed=3)

    def value(position: int, n: int, output: Tensor, teacher: Tensor) -> Tensor:
        if position in (0, n - 1):
            return loss(output) * (0.5 if position else 2)
        return slim.l1(output, teacher)

    torch.testing.assert_close(of_rule(rule(lesson=lessons)), by_hand(rule(), value), rtol=1e-6, atol=1e-7)


def test_settings_files_describe_the_same_lessons() -> None:
    averaged = slim.AveragedTeacher(decay=0.9)
    assert lessons_named(SOFT) == as_lessons(SOFT, None)
    assert lessons_named(None) == as_lessons(None, None)
    described = lessons_named(
        SOFT,
        weight="balanced",
        teacher={"averaged": {"decay": 0.9}},
        smallest={"teacher": {"ensemble": {"of": {"averaged": {"decay": 0.9}}}}},
        largest={"data": 0.5, "teacher": {"averaged": {"decay": 0.9}}},
    )
    assert described == slim.Lessons(
        slim.Lesson(0.0, SOFT, "balanced", averaged),
        slim.Lesson(0.0, SOFT, "balanced", slim.Ensemble(of=averaged)),
        slim.Lesson(0.5, SOFT, "balanced", averaged),
    )


def test_a_loss_with_a_second_parameter_is_told_the_width() -> None:
    net, rule, asked = network(), slim.Sandwich(RANGE, 4, seed=3), []

    def asking(output: Tensor, width: Any) -> Tensor:
        asked.append((width, slim.current_width(net)))
        return loss(output)

    losses = rule.backward(net, X, asking)
    assert asked == [(width, width) for width in losses]


def test_what_a_loss_has_bound_is_not_taken_for_the_width() -> None:
    bound = of_rule(slim.Sandwich(RANGE, seed=3), lambda output, target=TARGET: F.cross_entropy(output, target))
    partly = of_rule(slim.Sandwich(RANGE, seed=3), partial(F.cross_entropy, target=TARGET))
    expected = of_rule(slim.Sandwich(RANGE, seed=3))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(expected, bound, partly, strict=True))
    seen: list[Any] = []
    of_rule(slim.Sandwich(RANGE, seed=3), lambda output, width=None: seen.append(width) or loss(output))
    assert seen == slim.Sandwich(RANGE, seed=3).draw()


def test_a_loss_that_is_a_module_may_ask_for_the_width() -> None:
    class Asking(nn.Module):
        def forward(self, output: Tensor, width: float) -> Tensor:
            seen.append(width)
            return loss(output)

    seen: list[Any] = []
    of_rule(slim.Sandwich(RANGE, seed=3), Asking())
    assert seen == slim.Sandwich(RANGE, seed=3).draw()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: slim.Sandwich(RANGE, distill=slim.kl_divergence), r"it makes such a loss: distill=kl_divergence\(\)"),
        (lambda: slim.Sandwich(RANGE, distill=alpha_divergence), r"it makes such a loss: distill=alpha_divergence\(\)"),
        (lambda: slim.kl_divergence("4"), "temperature '4' must be a finite number"),
        (lambda: slim.Lessons(None), "between=None must be a Lesson"),
        (lambda: slim.Lessons(slim.Lesson(), smallest="x"), "smallest='x' must be a Lesson"),
        (lambda: slim.Sandwich(RANGE, distill=lambda student: student), r"cannot be called as .*\(student, teacher\)"),
        (lambda: slim.Sandwich(RANGE, distill="l1"), "must be a loss of"),
        (lambda: slim.Sandwich(RANGE, distill=slim.Lesson()), "give a lesson as lesson="),
        (lambda: slim.Sandwich(RANGE, distill=SOFT, lesson=slim.Lesson()), "give one of the two"),
        (lambda: slim.Sandwich(RANGE, lesson=SOFT), "must be a Lesson"),
        (lambda: slim.Lesson(data=-1), "data=-1 must be a number of at least 0, 'balanced'"),
        (lambda: slim.Lesson(data=float("nan")), "data=nan must be"),
        (lambda: slim.Lesson(distill=SOFT, weight="balancd"), "weight='balancd' must be"),
        (lambda: slim.Lesson(distill=SOFT, weight=True), "weight=True must be"),
        (lambda: slim.Lesson(data=0), "something to learn from"),
        (lambda: slim.Lesson(data=0, distill=SOFT, weight=0), "something to learn from"),
        (lambda: slim.Lesson(weight=0.5), "belong to distillation"),
        (lambda: slim.Lesson(teacher=slim.AveragedTeacher()), "belong to distillation"),
        (lambda: slim.Lesson(distill=SOFT, teacher="larger"), "did you mean 'largest'"),
        (lambda: slim.Lessons(slim.Lesson(), largest=slim.Lesson(distill=SOFT)), "cannot be its own teacher"),
        (
            lambda: slim.Lessons(slim.Lesson(), largest=slim.Lesson(distill=SOFT, teacher="ensemble")),
            "cannot be its own teacher",
        ),
        (lambda: slim.RandomWidths(RANGE, lesson=slim.Lesson(distill=SOFT)), "which is not in every step"),
        (
            lambda: slim.RandomWidths(RANGE, lesson=slim.Lesson(0, SOFT, teacher=slim.AveragedTeacher())),
            "no width would learn from the data",
        ),
        (lambda: lessons_named(SOFT, smallest={"dat": 1}), "unknown key of smallest: 'dat'; did you mean 'data'"),
        (lambda: lessons_named(SOFT, smallest=0.5), "smallest must be keys and values"),
    ],
)
def test_impossible_lessons_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
