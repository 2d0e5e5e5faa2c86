"""Averaged teachers and ensembles against their definitions, and rules that look before they draw."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.width import Width
from slimlib.training.rule import Rule
from slimlib.training.step import Step

RANGE = slim.WidthRange(0.25, 1.0)
SOFT = slim.soft_cross_entropy
AVERAGED = slim.AveragedTeacher(decay=0.8)


class WeightNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(6, 32))
        self.last = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 3))


def gathered() -> nn.Module:
    """A BatchNorm over concatenated channels, whose active ones are no prefix."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm, self.last = (
                nn.Linear(6, 16),
                nn.Linear(6, 16),
                nn.BatchNorm1d(32),
                nn.Linear(32, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(torch.cat([self.a(x), self.b(x)], 1)).relu())

    return Joined()


NETWORKS: dict[str, Callable[[], nn.Module]] = {"BatchNorm": normed, "weight norm": WeightNormed, "gathered": gathered}


def network(kind: str = "BatchNorm", norm: str = "universal") -> nn.Module:
    torch.manual_seed(0)
    widths = slim.Switches(0.25, 0.5, 1.0) if norm == "switchable" else RANGE
    return slim.convert(NETWORKS[kind](), torch.zeros(2, 6), widths=widths, norm=norm)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)) for _ in range(count)]


def train(net: nn.Module, rule: Rule, data: list[tuple[Tensor, Tensor]]) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    for x, target in data:
        optimizer.zero_grad()
        rule.backward(net, x, lambda out, target=target: F.cross_entropy(out, target))
        optimizer.step()


def weights(net: nn.Module) -> list[Tensor]:
    return [value.clone() for value in net.state_dict().values()]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("start", [0, 2])
def test_an_averaged_teacher_is_the_average_kept_by_hand(kind: str, start: int) -> None:
    net, data = network(kind).eval() if kind == "BatchNorm" else network(kind), batches(6)
    slim.calibrate(net, [data[0][0]], widths=[0.25, 1.0])
    twin = copy.deepcopy(net)
    teacher = slim.AveragedTeacher(decay=0.8, start=start)
    train(net, slim.Sandwich(RANGE, 2, lesson=slim.Lesson(0.3, SOFT, 0.7, teacher)), data)

    average: nn.Module | None = None
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.2)
    for number, (x, target) in enumerate(data):
        if average is None and number >= start:
            average = copy.deepcopy(twin)
        elif average is not None:
            with torch.no_grad():
                for mean, now in zip(average.parameters(), twin.parameters(), strict=True):
                    mean.mul_(0.8).add_(now, alpha=0.2)
        optimizer.zero_grad()
        F.cross_entropy(twin(x), target).backward()
        with torch.no_grad():
            taught = copy.deepcopy(twin if average is None else average)(x)
        with slim.at_width(twin, 0.25):
            output = twin(x)
        (0.3 * F.cross_entropy(output, target) + 0.7 * SOFT(output, taught)).backward()
        optimizer.step()
    torch.testing.assert_close(weights(net), weights(twin))


@pytest.mark.parametrize("norm", ["universal", "switchable", "shared"])
@pytest.mark.parametrize("kind", ["BatchNorm", "gathered"])
def test_teaching_leaves_no_trace_in_weights_and_statistics(kind: str, norm: str) -> None:
    """A teacher of weight nearly nothing: the training is that of the data."""
    taught, plain = network(kind, norm), network(kind, norm)
    for net, lesson in ((taught, slim.Lesson(1.0, slim.l1, 1e-30, AVERAGED)), (plain, slim.Lesson())):
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        train(net, slim.Sandwich(net.slim.widths, 3, lesson=lesson), batches(4))
    assert all(torch.equal(a, b) for a, b in zip(weights(taught), weights(plain), strict=True))


LESSONS = {
    "averaged": slim.Lesson(0.5, SOFT, 0.5, slim.AveragedTeacher(decay=0.8, start=1)),
    "bootstrapping": slim.Lessons(
        slim.Lesson(0, SOFT, teacher=AVERAGED), slim.Lesson(0, SOFT, teacher=slim.Ensemble(of=AVERAGED))
    ),
}


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=LESSONS)
def test_a_resumed_training_equals_an_uninterrupted_one(lesson: Any) -> None:
    net, rule, data = network(), slim.Sandwich(RANGE, 4, lesson=lesson, seed=3), batches(6)
    train(net, rule, data[:3])
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "rule": rule.state_dict(), "random": torch.get_rng_state()}, file)
    train(net, rule, data[3:])

    file.seek(0)
    state = torch.load(file, weights_only=True)
    again, resumed = network(), slim.Sandwich(RANGE, 4, lesson=lesson, seed=9)
    again.load_state_dict(state["net"])
    resumed.load_state_dict(state["rule"])
    torch.set_rng_state(state["random"])
    train(again, resumed, data[3:])
    assert all(torch.equal(a, b) for a, b in zip(weights(net), weights(again), strict=True))


def test_copies_of_network_and_rule_go_on_as_the_originals() -> None:
    net, rule, data = network("weight norm"), slim.Sandwich(RANGE, lesson=LESSONS["bootstrapping"]), batches(5)
    train(net, rule, data[:2])
    twin, twin_rule = copy.deepcopy(net), copy.deepcopy(rule)
    train(net, rule, data[2:])
    train(twin, twin_rule, data[2:])
    assert all(torch.equal(a, b) for a, b in zip(weights(net), weights(twin), strict=True))


def test_a_state_is_a_snapshot() -> None:
    net, rule, data = network("weight norm"), slim.Sandwich(RANGE, lesson=LESSONS["averaged"]), batches(4)
    train(net, rule, data[:3])
    state = rule.state_dict()
    before = copy.deepcopy(state)
    train(net, rule, data[3:])
    torch.testing.assert_close(state, before, rtol=0, atol=0)
    assert state["averages"][0]["steps"] == 3


def test_states_and_networks_that_do_not_fit_are_refused() -> None:
    rule = slim.Sandwich(RANGE, lesson=LESSONS["averaged"])
    with pytest.raises(ValueError, match="0 averaged teachers, and this rule 1"):
        rule.load_state_dict(slim.Sandwich(RANGE).state_dict())
    train(network(), rule, batches(3))
    with pytest.raises(ValueError, match="follows another network"):
        train(network("gathered"), rule, batches(1))


@pytest.mark.parametrize("mean", ["outputs", "probabilities"])
@pytest.mark.parametrize("widths", [None, (0.5, 1.0)])
def test_an_ensemble_is_the_mean_of_its_members(mean: Any, widths: Any) -> None:
    net, (x, target) = network("weight norm"), batches(1)[0]
    taught: dict[Width, Tensor] = {}

    def distill(student: Tensor, teacher: Tensor) -> Tensor:
        taught[slim.current_width(net)] = teacher
        return SOFT(student, teacher)

    rule = slim.Sandwich(RANGE, 4, lesson=slim.Lesson(0, distill, teacher=slim.Ensemble(widths, mean=mean)), seed=3)
    drawn = list(rule.backward(net, x, lambda out: F.cross_entropy(out, target)))
    for position, width in enumerate(drawn[1:], start=1):
        outputs = []
        for member in widths or drawn[:position]:
            with slim.at_width(net, member), torch.no_grad():
                outputs.append(net(x))
        if mean == "outputs":
            expected, found = torch.stack(outputs).mean(0), taught[width]
        else:
            expected = torch.stack([out.softmax(1) for out in outputs]).mean(0)
            found = taught[width].exp()
        torch.testing.assert_close(found, expected)


@dataclass
class Output:
    logits: Tensor
    more: dict[str, Tensor]


class InParts(nn.Module):
    """Its output in a dataclass that torch does not look into, with numbers that have no mean."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = WeightNormed()

    def forward(self, x: Tensor) -> Output:
        logits = self.inner(x)
        return Output(logits, {"twice": 2 * logits, "class": logits.argmax(1)})


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("teacher", ["largest", slim.Ensemble((0.5, 1.0)), slim.Ensemble(mean="probabilities")])
def test_outputs_in_a_dataclass_teach_as_tensors_do(teacher: Any, autocast: torch.dtype | None) -> None:
    x, target = batches(1)[0]
    torch.manual_seed(0)
    parts = InParts()
    slim.convert(plain := copy.deepcopy(parts.inner), x)
    slim.convert(parts, x)

    def step(net: nn.Module, logits: Callable[[Any], Tensor]) -> list[Tensor | None]:
        def loss(output: Any) -> Tensor:
            assert logits(output).dtype == torch.float32
            return F.cross_entropy(logits(output), target)

        lesson = slim.Lesson(0.5, lambda s, t: SOFT(logits(s), logits(t)), 0.5, teacher)
        slim.Sandwich(RANGE, lesson=lesson, seed=3).backward(net, x, loss, autocast=autocast)
        return [p.grad for p in net.parameters()]

    torch.testing.assert_close(step(parts, lambda output: output.logits), step(plain, lambda output: output))


def test_a_mean_of_probabilities_of_what_has_no_classes_is_refused() -> None:
    net, (x, _) = network("weight norm"), batches(1)[0]
    rule = slim.Sandwich(RANGE, lesson=slim.Lesson(0.5, slim.l1, teacher=slim.Ensemble(mean="probabilities")))
    with pytest.raises(
        ValueError, match=r"takes logits \[N, classes, ...\], and the network returned a tensor \[\d+\]"
    ):
        rule.backward(net, x, lambda out: out.mean(), forward=lambda x: net(x)[:, 0])


def test_in_place_ensemble_bootstrapping_of_ds_net() -> None:
    """The largest learns from the data, random widths from the average, the smallest from several of its widths."""
    net, data = network("weight norm"), batches(3)
    rule = slim.Sandwich(RANGE, 4, lesson=LESSONS["bootstrapping"], seed=3)
    train(net, rule, data[:2])
    twin = copy.deepcopy(net)
    average = copy.deepcopy(net)
    with torch.no_grad():
        for mean, value, now in zip(
            average.parameters(), rule.state_dict()["averages"][0]["values"], net.parameters(), strict=True
        ):
            mean.copy_(0.8 * value + 0.2 * now)
    (x, target) = data[2]
    net.zero_grad()
    drawn = list(rule.backward(net, x, lambda out: F.cross_entropy(out, target)))

    twin.zero_grad()
    outputs = []
    for width in drawn:
        with slim.at_width(twin, width):
            output = twin(x)
        with slim.at_width(average, width), torch.no_grad():
            outputs.append(average(x))
        if width == 1.0:
            value = F.cross_entropy(output, target)
        else:
            value = SOFT(output, outputs[0] if width != 0.25 else torch.stack(outputs[:-1]).mean(0))
        value.backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], [p.grad for p in twin.parameters()])


def test_random_widths_learn_from_an_average_though_the_largest_is_not_in_every_step() -> None:
    net = network("weight norm")
    before = weights(net)
    rule = slim.RandomWidths(RANGE, 2, lesson=slim.Lesson(0.5, SOFT, 0.5, slim.AveragedTeacher(start=1)))
    train(net, rule, batches(3))
    assert not any(torch.equal(a, b) for a, b in zip(weights(net), before, strict=True))


def test_an_average_teaches_within_autocast_as_without_its_cache() -> None:
    """Autocast keeps casts of the weights, and does not see that others are in their place."""
    torch.manual_seed(0)
    first, x = slim.convert(normed(), torch.randn(8, 6)), torch.randn(8, 6)
    losses = []
    for cached in (True, False):
        net = copy.deepcopy(first)
        rule = slim.Sandwich(RANGE, lesson=slim.Lesson(distill=slim.mse, teacher=slim.AveragedTeacher(decay=0.9)))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            torch.manual_seed(1)
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
                found = rule.backward(net, x, lambda output: output.float().square().mean())
            optimizer.step()
        losses.append(list(found.values()))
    assert losses[0] == losses[1]


def test_an_average_of_half_precision_moves() -> None:
    net, rule = (
        network("weight norm").bfloat16(),
        slim.Sandwich(RANGE, lesson=slim.Lesson(0.5, slim.l1, 0.5, "averaged")),
    )
    x, target = batches(1)[0]
    rule.backward(net, x.bfloat16(), lambda out: F.cross_entropy(out.float(), target))
    first = rule.state_dict()["averages"][0]["values"]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.5)
    rule.backward(net, x.bfloat16(), lambda out: F.cross_entropy(out.float(), target))
    for before, after in zip(first, rule.state_dict()["averages"][0]["values"], strict=True):
        assert after.dtype == torch.float32
        torch.testing.assert_close(after - before, torch.full_like(after, 0.0015), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: slim.AveragedTeacher(decay=1.0), r"decay=1.0 of an averaged teacher must be in \[0, 1\)"),
        (lambda: slim.AveragedTeacher(decay="0.9"), "decay='0.9'"),  # type: ignore[arg-type]
        (lambda: slim.AveragedTeacher(start=-1), "start=-1 of an averaged teacher"),
        (lambda: slim.AveragedTeacher(start=1.5), "start=1.5 of an averaged teacher"),  # type: ignore[arg-type]
        (lambda: slim.Ensemble(mean="median"), "must be 'outputs' or 'probabilities'"),  # type: ignore[arg-type]
        (lambda: slim.Ensemble(widths=0.5), "must be a list of widths"),  # type: ignore[arg-type]
        (lambda: slim.Ensemble(widths=[]), "must be a list of widths"),
        (lambda: slim.Ensemble(of=slim.Ensemble()), "not of another ensemble"),
        (lambda: slim.Lesson(distill=SOFT, teacher={"averaged": {"deca": 0.9}}), "did you mean 'decay'"),
        (lambda: slim.Lesson(distill=SOFT, teacher={"averaged": 0.9}), "must be keys and values"),
        (lambda: slim.Lesson(distill=SOFT, teacher={"average": {}}), "did you mean 'averaged'"),
        (lambda: slim.Lesson(distill=SOFT, teacher=3), "unknown teacher '3'"),  # type: ignore[arg-type]
    ],
)
def test_impossible_teachers_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class BestUp(slim.Sandwich):
    """Of three random widths each step trains the one that loses least."""

    def draw(self, step: Step | None = None) -> list[Width]:
        assert step is not None
        candidates = self._random(3, without=[])
        return [self.widths.largest, min(candidates, key=step.loss), self.widths.smallest]


def test_a_rule_may_look_at_the_loss_before_it_draws() -> None:
    net, (x, target) = network(), batches(1)[0]
    net[3].p = 0.0
    for module in net:
        assert module.training
    state = weights(net)

    def loss(output: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    candidates = BestUp(RANGE, 3, seed=5)._random(3, without=[])
    lost = {}
    for width in candidates:
        with slim.at_width(net, width), torch.no_grad():
            lost[width] = loss(net(x)).item()
    found = BestUp(RANGE, 3, seed=5).backward(net, x, loss)
    assert list(found) == [1.0, min(lost, key=lost.get), 0.25]
    twin = network()
    twin[3].p = 0.0
    twin(x)  # the pass of the largest alone moves statistics on
    assert not all(torch.equal(a, b) for a, b in zip(weights(net), state, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights(net), weights(twin), strict=True))
