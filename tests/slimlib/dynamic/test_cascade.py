"""A cascade answers each sample at the first width that is sure of it; thresholds come from held-out samples."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import slimlib as slim
from slimlib.dynamic.confidence import CONFIDENCES, confidence_in
from slimlib.dynamic.outcomes import Outcomes
from slimlib.dynamic.thresholds import Simulation

WIDTHS = (0.25, 0.5, 1.0)
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    """Points of four classes that overlap, [N, 8]."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(4, (600,), generator=generator)
    centres = torch.randn(4, 8, generator=generator)
    return centres[target] + 0.9 * torch.randn(600, 8, generator=generator), target


@pytest.fixture(scope="module")
def net(data: tuple[Tensor, Tensor]) -> nn.Module:
    """Trained a little, with BatchNorm, so that narrow widths are worse."""
    torch.manual_seed(0)
    x, target = data
    made = nn.Sequential(
        nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    made = slim.convert(made, x, divisor=2, widths=slim.WidthRange(0.25, 1.0))
    rule = slim.Sandwich(slim.WidthRange(0.25, 1.0), samples=3)
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        rule.backward(made, x[:300], lambda out: nn.functional.cross_entropy(out, target[:300]))
        optimizer.step()
    slim.calibrate(made, [x[:300]], WIDTHS)
    return made.eval()


def one_by_one(cascade: slim.Cascade, x: Tensor) -> tuple[Tensor, list[Any]]:
    outputs, widths = [], []
    for sample in x.split(1):
        for place, width in enumerate(cascade.widths):
            least = (*cascade.thresholds, -math.inf)[place]
            if least == math.inf:
                continue
            with slim.at_width(cascade.net, width):
                output = cascade.net(sample)
            if CONFIDENCES[cascade.confidence](output) >= least:
                break
        outputs.append(output)
        widths.append(width)
    return torch.cat(outputs), widths


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize("thresholds", [(0.8, 0.6), (0.5, -math.inf), (math.inf, 0.7), (1.0, 1.0), (-math.inf,) * 2])
def test_a_batch_is_answered_as_each_sample_alone(
    net: nn.Module, data: tuple[Tensor, Tensor], confidence: str, thresholds: tuple[float, ...]
) -> None:
    x = data[0][:40]
    for served in (net, slim.freeze(net, WIDTHS)):
        cascade = slim.Cascade(served, WIDTHS, thresholds, confidence=confidence)
        with torch.no_grad():
            answer, (outputs, widths) = cascade.answer(x), one_by_one(cascade, x)
        torch.testing.assert_close(answer.output, outputs, **ROUNDING)
        assert list(answer.widths) == widths


def test_only_what_is_unsure_runs_wider(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    sizes: list[tuple[Any, int]] = []
    hook = net.register_forward_pre_hook(lambda m, args: sizes.append((slim.current_width(m), len(args[0]))))
    slim.set_width(net, 0.5)
    answer = slim.Cascade(net, WIDTHS, (0.9, math.inf)).answer(data[0][:50])
    hook.remove()
    wider = sum(width == 1.0 for width in answer.widths)
    assert sizes == [(0.25, 50), (1.0, wider)] and 0 < wider < 50
    assert slim.current_width(net) == 0.5


def test_gradients_flow_to_the_width_that_answered(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    x = data[0][:20].clone().requires_grad_()
    slim.Cascade(net, WIDTHS, (0.9, 0.7))(x).square().sum().backward()
    assert bool((x.grad.abs().sum(1) > 0).all())


def test_a_confidence_of_ones_own_decides_on_any_structure() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.b(self.a(x))
            return {"scores": y, "sure": x[:, 0]}

    net = slim.convert(Two(), torch.randn(2, 4))
    x = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [2.0, 0, 0, 0]])
    answer = slim.Cascade(net, (0.5, 1.0), [0.0], confidence=lambda out: out["sure"]).answer(x)
    assert answer.widths == (0.5, 1.0, 0.5)
    assert answer.output["sure"].tolist() == [1.0, -1.0, 2.0]
    with pytest.raises(ValueError, match=r"is of scores \[N, classes\], and the network returned"):
        slim.Cascade(net, (0.5, 1.0), [0.5])(x)
    with pytest.raises(ValueError, match=r"confidence of 3 samples must be a tensor \[3\], not \[3, 3\]"):
        slim.Cascade(net, (0.5, 1.0), [0.5], confidence=lambda out: out["scores"])(x)


def test_inputs_by_name() -> None:
    net = slim.convert(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    x, labels = torch.randn(12, 4), torch.zeros(12, dtype=torch.long)
    cascade = slim.fit_cascade(net, (0.5, 1.0), [{"input": x}], labels, budget=0.9)
    assert torch.equal(cascade({"input": x}), cascade(x))
    found = slim.search(
        net, lambda model: float(model(x).square().mean()), [0.8], example={"input": x}, calibrate=[{"input": x}]
    )
    assert found.plain > 0
    assert slim.latency_table(net, {"input": x}, levels=2, rounds=1, check=1).errors


def test_an_outcome_that_is_no_number_is_refused() -> None:
    net = slim.convert(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"the score of sample 0 is NaN at width 1 of 2, from narrow to wide"):
        slim.fit_cascade(
            net, (0.5, 1.0), [torch.randn(5, 4)], torch.zeros(5), budget=0.9, score=lambda out, y: y * float("nan")
        )


def test_confidences_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert float(CONFIDENCES["max_probability"](logits)) == pytest.approx(0.5)
    assert float(CONFIDENCES["margin"](logits)) == pytest.approx(0.2)
    spread = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2)) / math.log(3)
    assert float(CONFIDENCES["entropy"](logits)) == pytest.approx(1 - spread, abs=1e-6)


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_confidences_near_one_are_told_apart(confidence: str) -> None:
    """In single precision all of these are exactly 1."""
    lead = torch.arange(18.0, 34.0)
    logits = torch.stack([lead, torch.zeros(16), torch.full((16,), -math.inf)], 1)  # a class may be ruled out
    found = confidence_in(logits, confidence, 16)
    assert bool((found < 1).all()) and bool((found.diff() > 0).all())


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_thresholds_of_a_very_sure_network(confidence: str) -> None:
    """Where a network leads by little it is often wrong; all leads are so large that probabilities round to 1."""
    net = slim.convert(nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2)), torch.zeros(2, 2), divisor=2)
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.zero_()
            layer.bias.zero_()
        net[0].weight[0, 0], net[2].weight[0, 0] = 1.0, 1.0  # in all widths: the lead of class 0
        net[0].weight[15, 1], net[2].weight[1, 15] = 1.0, 100.0  # in the full width alone: class 1
    lead = torch.linspace(20, 32, 200)
    wrong = torch.arange(200) < 60  # in narrow widths
    x, target = torch.stack([lead, wrong.float()], 1), wrong.long()
    cascade = slim.fit_cascade(net, (0.5, 1.0), [x], target, budget=slim.AccuracyLoss(0.0), confidence=confidence)
    assert "from 1 - " in repr(cascade)
    assert cascade.report.held_out.cascade.shares == (0.7, 0.3)
    assert torch.equal(cascade(x).argmax(1), target) and cascade.answered.count(1.0) == 60


def test_the_knob_goes_from_the_narrowest_to_the_widest(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    cascade = slim.Cascade(net, WIDTHS, (0.8, 0.6))
    assert cascade.quality == 0.5
    means = []
    for step in range(9):
        cascade.quality = step / 8
        means.append(sum(cascade.answer(data[0][:100]).widths) / 100)
    assert means[0] == 0.25 and means[-1] == 1.0 and means == sorted(means)
    cascade.quality = 0.5
    assert cascade.thresholds == (0.8, 0.6)
    for wrong in (-0.1, 1.1, math.nan, "best", True):
        with pytest.raises(ValueError, match="must be a number from 0, cheapest, to 1, best"):
            cascade.quality = wrong


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_thresholds_are_as_good_as_any_on_a_grid(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    easy = torch.rand(60, generator=generator)
    right = (easy + torch.tensor([[0.0], [0.15], [0.3]]) > torch.rand(3, 60, generator=generator)).double()
    sure = (easy + 0.3 * torch.rand(3, 60, generator=generator)).double()
    simulation = Simulation(Outcomes(sure, right, None), (0.2, 0.5, 1.0))
    path = simulation.path()
    assert [p.cost for p in path] == sorted(p.cost for p in path)
    assert [p.score for p in path] == sorted(p.score for p in path)
    for point in path:
        assert simulation.point(point.thresholds) == point
    grid = [[*sure[place].quantile(torch.linspace(0, 1, 9).double()).tolist(), -math.inf] for place in range(2)]
    for price in (0.05, 0.3, 1.0):
        ours = max(p.score - price * p.cost for p in path)
        everything = [simulation.point(each) for each in product(*grid) if list(each) == sorted(each, reverse=True)]
        assert ours >= max(p.score - price * p.cost for p in everything) - 0.02


def halves(data: tuple[Tensor, Tensor]) -> tuple[list[Tensor], Tensor]:
    return list(data[0][300:].split(64)), data[1][300:]


def test_a_budget_of_cost_is_kept_and_used(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    batches, targets = halves(data)
    costs = {width: slim.cost(net, batches[0][:1], width).macs for width in WIDTHS}
    cascade = slim.fit_cascade(net, WIDTHS, batches, targets, budget=0.7)
    point = cascade.report.held_out.cascade
    spent, right = 0, 0
    for x, target in zip(batches, targets.split(64), strict=True):
        answer = cascade.answer(x)
        right += int((answer.output.argmax(1) == target).sum())
        ran = [costs[WIDTHS[s]] for s in cascade.stages()]
        used = [WIDTHS[s] for s in cascade.stages()]
        spent += sum(sum(ran[: used.index(width) + 1]) for width in answer.widths)
    assert point.cost == pytest.approx(spent / 300 / costs[1.0]) and point.cost <= 0.7
    assert point.score == pytest.approx(right / 300)
    assert point.score >= max(w.score for w in cascade.report.held_out.widths if w.cost <= 0.7)
    absolute = slim.fit_cascade(net, WIDTHS, batches, targets, budget=f"{0.7 * costs[1.0]} macs")
    assert absolute.thresholds == cascade.thresholds


def test_a_budget_of_accuracy_takes_the_cheapest(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    batches, targets = halves(data)
    cascade = slim.fit_cascade(net, WIDTHS, batches, targets.split(64), budget=slim.AccuracyLoss(0.02))
    widest = cascade.report.held_out.widths[-1]
    point = cascade.report.held_out.cascade
    assert point.score >= widest.score - 0.02 - 1e-9
    cheaper = [p for p in cascade.path if p.cost < point.cost]
    assert all(p.score < widest.score - 0.02 for p in cheaper)
    qualities = []
    for step in range(5):
        cascade.quality = step / 4
        qualities.append(cascade.thresholds)
    assert qualities[0] == cascade.path[0].thresholds and qualities[-1] == cascade.path[-1].thresholds


def test_the_report_tells_of_calibration_and_of_corrupted_images(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    batches, targets = halves(data)
    cascade = slim.fit_cascade(net, WIDTHS, batches, targets, budget=0.6, corrupt=lambda x: 0 * x)
    report = cascade.report
    assert len({w.confidence for w in report.corrupted.widths}) == 3
    answer = cascade.answer(torch.zeros(1, 8))
    place = WIDTHS.index(answer.widths[0])
    assert report.corrupted.cascade.shares[place] == 1.0, "all images are alike"
    with slim.at_width(net, 1.0), torch.no_grad():
        probability = torch.cat([net(x) for x in batches]).softmax(1).amax(1)
    assert report.held_out.widths[-1].confidence == pytest.approx(float(probability.mean()), rel=1e-5)
    assert 0 <= report.held_out.widths[-1].calibration_error < 0.3
    assert "corrupted" in str(report) and "calibration error" in str(report)


def test_calibration_error_by_hand() -> None:
    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([0.9, 0.1]).log() + 0 * self.b(self.a(x))

    x = torch.randn(30, 2)
    target = (torch.arange(30) % 2 == 1).long()  # half of them are class 0
    cascade = slim.fit_cascade(slim.convert(Sure(), x), (0.5, 1.0), [x], target, budget=1.0)
    assert cascade.report.held_out.widths[0].calibration_error == pytest.approx(0.4, abs=1e-6)


def test_latency_budget_and_frozen_networks(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    batches, targets = halves(data)
    frozen = slim.freeze(net, WIDTHS)
    cascade = slim.fit_cascade(frozen, WIDTHS, batches, targets, budget="1000 ms")
    assert cascade.report.unit == "ms"
    by_macs = slim.fit_cascade(frozen, WIDTHS, batches, targets, budget=0.7)
    assert by_macs.thresholds == slim.fit_cascade(net, WIDTHS, batches, targets, budget=0.7).thresholds
    assert isinstance(by_macs.on(net), slim.Cascade) and by_macs.on(net).thresholds == by_macs.thresholds


@pytest.mark.parametrize(
    ("widths", "thresholds", "says"),
    [
        ((0.5,), (), "at least two widths"),
        ((1.0, 0.5), (0.5,), "widths out of order: 1 comes before 0.5"),
        ((0.5, 0.5), (0.5,), "widths out of order"),
        (WIDTHS, (0.5,), "3 widths has 2 thresholds, one for each but the last; got 1"),
        (WIDTHS, (0.5, 0.9), r"thresholds out of order: 0.9 comes after 0.5.*\[0.9, 0.5\]"),
        (WIDTHS, (0.5, math.nan), "threshold nan must be a number"),
        (WIDTHS, ("0.5", 0.4), "threshold '0.5' must be a number"),
        (WIDTHS, 0.5, "thresholds=0.5 must be a list, with one for each width but the last"),
        (0.5, (), "two widths is needed, from narrow to wide; got 0.5"),
        ((0.1, 1.0), (0.5,), "width 0.1 is outside what this network was converted for"),
    ],
)
def test_impossible_cascades(net: nn.Module, widths: Any, thresholds: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        slim.Cascade(net, widths, thresholds)


def test_thresholds_may_be_an_array(net: nn.Module) -> None:
    for thresholds in (torch.tensor([0.5, 0.25]), np.array([0.5, 0.25], dtype="float32")):
        assert slim.Cascade(net, WIDTHS, thresholds).thresholds == (0.5, 0.25)


def test_widths_without_statistics_are_refused_at_once(net: nn.Module) -> None:
    with pytest.raises(slim.UncalibratedWidth, match="width 0.75 has no BatchNorm statistics"):
        slim.Cascade(net, (0.75, 1.0), [0.5])
    with pytest.raises(ValueError, match="width 0.75 was not frozen"):
        slim.Cascade(slim.freeze(net, WIDTHS), (0.75, 1.0), [0.5])
    with pytest.raises(ValueError, match="must be one of max_probability, margin, entropy, or a function"):
        slim.Cascade(net, WIDTHS, (0.5, 0.5), confidence="probability")


def test_a_network_in_training(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    cascade = slim.Cascade(net, WIDTHS, (0.5, 0.5))
    net.train()
    try:
        with pytest.raises(ValueError, match="normalises by the batch"):
            cascade(data[0])
    finally:
        net.eval()


def test_impossible_fits(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    batches, targets = halves(data)
    for budget, says in (
        (0.01, "less than the narrowest width costs"),
        ("10 params", "uses the parameters of all its widths"),
        (-1, "is neither a share"),
    ):
        with pytest.raises(ValueError, match=says):
            slim.fit_cascade(net, WIDTHS, batches, targets, budget=budget)
    for wrong in (targets[:-1], torch.cat([targets, targets]), targets.split(64)[:-1]):
        with pytest.raises(ValueError, match="batches and targets do not fit"):
            slim.fit_cascade(net, WIDTHS, batches, wrong, budget=0.5)
    with pytest.raises(ValueError, match="got no batch"):
        slim.fit_cascade(net, WIDTHS, [], torch.empty(0), budget=0.5)
    with pytest.raises(ValueError, match="give score="):
        slim.fit_cascade(net, WIDTHS, batches, targets[:, None].float(), budget=0.5)
    with pytest.raises(ValueError, match="must be a number from 0"):
        slim.AccuracyLoss(-0.1)
