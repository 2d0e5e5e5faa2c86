"""Rules and losses beyond the papers of slimmable networks, against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from slimlib import models
from slimlib.models.resnet import zero_last_scales
from slimlib.training.distillation import alpha_divergence
from slimlib.training.nonuniform import NonuniformSandwich
from slimlib.training.variants import GrowingSandwich, MultiResolutionSandwich

RANGE = slim.WidthRange(0.25, 1.0)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    made = models.build("resnet8", classes=10, size=64).double()
    return slim.convert(made, torch.randn(2, 3, 32, 32).double(), widths=RANGE, **made.channel_rule)


def divergence(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """D_alpha of each sample as it is defined."""
    q, p = student.softmax(1), teacher.softmax(1)
    if alpha == 1:
        return (p * (p / q).log()).sum(1)
    return (q * ((p / q) ** alpha - 1)).sum(1) / (alpha * (alpha - 1))


@pytest.mark.parametrize("alphas", [(-1.0, 1.0), (-0.5, 0.5), (-1.0, 2.0)])
def test_alpha_divergence_has_the_gradient_of_the_larger_divergence(alphas: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(64, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    both = [divergence(student, teacher, alpha) for alpha in alphas]
    (expected,) = torch.autograd.grad(torch.maximum(*both).mean(), student)
    (found,) = torch.autograd.grad(alpha_divergence(*alphas, clip=1e9)(student, teacher), student)
    torch.testing.assert_close(found, expected)
    assert (both[0] > both[1]).any() and (both[1] > both[0]).any()


def test_clipping_bounds_what_one_class_can_pull() -> None:
    student = torch.tensor([[20.0, 0.0]], requires_grad=True)
    (found,) = torch.autograd.grad(alpha_divergence(clip=5.0)(student, -student.detach()), student)
    assert found.abs().max() <= 5


@pytest.mark.parametrize("arguments", [{"low": 0.0}, {"low": "1"}, {"high": float("inf")}, {"clip": 0.0}])
def test_alpha_divergence_refuses_what_it_cannot_compute(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="alpha_divergence needs two finite|clip=0.0 must be above 0"):
        alpha_divergence(**arguments)


def test_a_growing_range_begins_with_the_largest_and_ends_as_the_sandwich_rule() -> None:
    rule = GrowingSandwich(RANGE, alone=3, growth=4, seed=1)
    drawn = [rule.draw() for _ in range(12)]
    assert drawn[:3] == [[1.0]] * 3
    assert [min(widths) for widths in drawn[3:]] == pytest.approx([1.0, 0.8125, 0.625, 0.4375, *[0.25] * 5])
    assert all(len(widths) == 4 and max(widths) == 1 for widths in drawn[4:])
    sandwich = slim.Sandwich(RANGE)
    sandwich.generator.set_state(rule.generator.get_state())
    assert rule.draw() == sandwich.draw()


def test_a_range_may_grow_in_no_step_at_all() -> None:
    rule = GrowingSandwich(RANGE, alone=2, growth=0)
    assert [len(rule.draw()) for _ in range(4)] == [1, 1, 4, 4]


def test_a_growing_range_goes_on_where_it_was_saved() -> None:
    rule, other = (GrowingSandwich(RANGE, alone=2, growth=6) for _ in range(2))
    for _ in range(5):
        rule.draw()
    other.load_state_dict(rule.state_dict())
    assert [other.draw() for _ in range(5)] == [rule.draw() for _ in range(5)]


def test_the_narrowest_of_a_growing_range_has_the_lesson_of_the_smallest() -> None:
    lessons = slim.Lessons(slim.Lesson(0.0, slim.mse), smallest=slim.Lesson(1.0), largest=slim.Lesson(2.0))
    rule = GrowingSandwich(RANGE, alone=1, growth=3, lesson=lessons)
    drawn = [[rule.lesson(width) for width in rule.draw()] for _ in range(5)]
    assert drawn[0] == [lessons.largest]
    assert all(own == [lessons.largest, lessons.between, lessons.between, lessons.smallest] for own in drawn[2:])


def test_the_state_of_another_rule_changes_nothing() -> None:
    rule = GrowingSandwich(RANGE, seed=1)
    before = rule.state_dict()
    with pytest.raises(ValueError, match="of another rule: it holds generator; GrowingSandwich has generator, steps"):
        rule.load_state_dict(slim.Sandwich(RANGE, seed=5).state_dict())
    assert rule.state_dict() == before


def test_narrow_widths_see_scaled_images_and_the_largest_the_whole(net: nn.Module) -> None:
    x, y = torch.randn(4, 3, 32, 32).double(), torch.tensor([1, 2, 3, 4])
    rule = MultiResolutionSandwich(RANGE, sizes=[16, 24], seed=0)
    net.train()
    losses = rule.backward(net, x, lambda out: F.cross_entropy(out, y))
    assert 1.0 not in rule.sizes and set(rule.sizes.values()) <= {16, 24} and len(rule.sizes) == 3
    for width, loss in losses.items():
        slim.set_width(net, width)
        size = rule.sizes.get(width, 32)
        seen = F.interpolate(x, (size, size), mode="bilinear", antialias=True) if size < 32 else x
        torch.testing.assert_close(F.cross_entropy(net(seen), y), loss)
    slim.set_width(net, 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_images_of_half_precision_are_scaled_as_those_of_float32(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 8, 8).to(dtype)
    net = slim.convert(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 1)).to(dtype), x)
    rule = MultiResolutionSandwich(RANGE, sizes=[6], samples=2)
    narrow = rule.backward(net, x, lambda out: out.square().mean())[0.25]
    scaled = F.interpolate(x.float(), (6, 6), mode="bilinear", antialias=True).to(dtype)
    with slim.at_width(net, 0.25):
        assert torch.equal(net(scaled).square().mean(), narrow)


def test_images_of_a_size_that_the_network_does_not_take_are_named() -> None:
    x = torch.randn(2, 3, 8, 8)
    net = slim.convert(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 2)), x)
    with pytest.raises(ValueError, match="does not take images that the rule scaled to 4 x 4 pixels"):
        MultiResolutionSandwich(RANGE, sizes=[4]).backward(net, x, lambda out: out.square().mean())


@pytest.mark.parametrize("choose", ["best", "worst"])
def test_of_several_plans_of_one_mean_width_the_best_or_worst_is_trained(net: nn.Module, choose: str) -> None:
    """With the plan's own number of units as its loss, the best has the fewest."""

    class Counts:
        net = None

        def loss(self, plan: slim.WidthPlan) -> float:
            seen.append(sum(plan.channels))
            return float(seen[-1])

    seen: list[int] = []
    step = Counts()
    step.net = net
    rule = NonuniformSandwich(RANGE, 3, candidates=4, choose=choose, seed=3)
    _, plan, _ = rule.draw(step)
    assert len(seen) == 4
    assert sum(plan.channels) == (min if choose == "best" else max)(seen)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GrowingSandwich(slim.Switches(0.5, 1.0)), "GrowingSandwich trains a range of widths"),
        (lambda: GrowingSandwich(RANGE, alone=-1), "alone=-1 and growth=1000 must be whole numbers of steps"),
        (lambda: GrowingSandwich(RANGE, alone=float("nan")), "alone=nan and growth=1000 must be whole numbers"),
        (lambda: MultiResolutionSandwich(RANGE, sizes=16), "sizes=16 must be sides of images"),
        (lambda: NonuniformSandwich(RANGE, candidates=1.5), "candidates=1.5 must be a whole number"),
        (lambda: MultiResolutionSandwich(RANGE, sizes=[0]), r"sizes=\[0\] must be sides of images"),
        (lambda: NonuniformSandwich(RANGE, candidates=0), "candidates=0 must be a whole number, at least 1"),
        (lambda: NonuniformSandwich(RANGE, choose="good"), "choose='good' best or worst"),
    ],
)
def test_what_is_wrong_is_named(make: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()  # type: ignore[operator]


@torch.no_grad()
def test_blocks_with_zero_scales_begin_as_their_shortcuts() -> None:
    net = models.build("resnet8", classes=10, size=64).eval()
    zero_last_scales(net)
    x = torch.randn(2, 3, 32, 32)
    for module in net.features:
        expected = torch.relu(module.shortcut(x)) if hasattr(module, "shortcut") else module(x)
        x = module(x)
        torch.testing.assert_close(x, expected)
    with pytest.raises(ValueError, match="zero_scale: true needs the blocks of a ResNet, and Linear has none"):
        zero_last_scales(nn.Linear(2, 2))
