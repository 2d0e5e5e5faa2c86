"""Search finds plans within budgets, by every method, and leaves the network as it was."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slimlib as slim
from slimlib.models import build, width_plan
from slimlib.search.methods import METHODS
from slimlib.search.space import ladders
from tests.published import tables
from tests.slimlib.search.searched import CALIBRATION, IMAGES, chain, channels, four_groups, loss

X = torch.zeros(1, 8)
PRICES = torch.tensor([1.0, 8.0, 2.0, 4.0], dtype=torch.double)  # of a channel of each group


def priced(net: nn.Module) -> float:
    """A score in which a channel of each group has a price."""
    return float((PRICES * (32 - channels(net))).sum())


def test_greedy_by_step_takes_the_cheapest_group_first() -> None:
    """As published: the channels of the lowest price go until the group has one step left, then the next."""
    found = slim.search(four_groups(), priced, [0.4], example=X, per="step", steps=4)[0]
    plans = [visited.plan.channels for visited in found.history]
    assert plans == [
        (32, 32, 32, 32),
        (24, 32, 32, 32), (16, 32, 32, 32), (8, 32, 32, 32),
        (8, 32, 24, 32), (8, 32, 16, 32), (8, 32, 8, 32),
        (8, 32, 8, 24), (8, 32, 8, 16),
    ][: len(plans)]  # fmt: skip
    assert found.cost <= 0.4 * slim.cost(four_groups(), X).macs < found.history[-2].cost


def test_greedy_by_cost_weighs_the_price_by_what_is_saved() -> None:
    """Each step is the one with the least price for the multiply-adds that it saves, counted here by hand."""
    found = slim.search(four_groups(), priced, [0.3], example=X, steps=4)[0]
    plans = [visited.plan.channels for visited in found.history]

    def macs(plan: tuple[int, ...]) -> int:
        sizes = (8, *plan, 4)
        return sum(a * b for a, b in itertools.pairwise(sizes))

    for before, after in itertools.pairwise(plans):
        options = [tuple(c - 8 * (i == g) for i, c in enumerate(before)) for g in range(4) if before[g] > 8]
        costs = {
            o: float(PRICES @ (torch.tensor(before) - torch.tensor(o)).double()) / (macs(before) - macs(o))
            for o in options
        }
        assert after == min(costs, key=lambda option: costs[option])
    assert [visited.cost for visited in found.history] == [macs(plan) for plan in plans]


def test_where_a_removal_lowers_the_score_the_one_that_saves_more_is_kept() -> None:
    found = slim.search(four_groups(), lambda net: float(channels(net).sum()), [0.9], example=X, steps=4)[0]
    assert found.history[1].plan.channels in [(32, 24, 32, 32), (32, 32, 24, 32)]  # between two wide layers


def test_greedy_goes_on_from_budget_to_budget() -> None:
    together = slim.search(four_groups(), priced, [0.2, 0.7, 0.4], example=X)
    assert [found.budget.amount for found in together] == [0.2, 0.7, 0.4]
    wide, middle, narrow = together[1], together[2], together[0]
    assert narrow.history[: len(middle.history)] == middle.history
    assert middle.history[: len(wide.history)] == wide.history
    for start in (middle.plan, middle):
        begun = slim.search(four_groups(), priced, [0.2], example=X, start=start)[0]
        assert begun.history[0].plan == middle.plan
        assert begun.plan == narrow.plan


def test_a_search_goes_on_from_a_published_plan() -> None:
    """The plans of AutoSlim count down from 1.1 times MobileNet v1 in the steps that we take."""
    rows = [row["plan"] for row in tables()["autoslim_mobilenet_v1"]["rows"]]
    net, x = build("mobilenet_v1", size=32, multiplier=1.1), torch.zeros(2, 3, 32, 32)
    slim.convert(net, x, norm="shared", **net.channel_rule)
    plans = [width_plan(net, row) for row in rows]
    for plan in plans:
        for ladder, channels_of_group in zip(ladders(net.slim.layout, 12), plan.channels, strict=True):
            assert channels_of_group in ladder.tolist()
    share = 0.95 * slim.cost(net, x, plans[0]).macs / slim.cost(net, x).macs
    found = slim.search(net, lambda model: float(channels(model).sqrt().sum()), [share], example=x, start=plans[0])[0]
    assert found.history[0].plan == plans[0]
    assert found.plan != plans[0]
    assert all(a <= b for a, b in zip(found.plan.channels, plans[0].channels, strict=True))
    for ladder, channels_of_group in zip(ladders(net.slim.layout, 12), found.plan.channels, strict=True):
        assert channels_of_group in ladder.tolist()


class Blobs:
    """A network that learned to tell ten blobs apart at every width, and blobs to score it by."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.centres = torch.randn(4, 8, generator=generator)
        self.net = four_groups()
        optimizer = torch.optim.Adam(self.net.parameters(), 3e-3)
        rule = slim.Sandwich(slim.WidthRange(0.25, 1.0), samples=3)
        for step in range(120):
            x, y = self.batch(64, step)
            optimizer.zero_grad()
            rule.backward(self.net, x, lambda output, y=y: F.cross_entropy(output, y))
            optimizer.step()

    def batch(self, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(0, 4, (count,), generator=generator)
        return self.centres[y] + 1.5 * torch.randn(count, 8, generator=generator), y

    def score(self, seed: int) -> Callable[[nn.Module], float]:
        x, y = self.batch(256, 1000 + seed)
        return lambda net: float(F.cross_entropy(net(x), y))


def test_evolution_finds_what_all_plans_hold_within_the_noise_of_a_score() -> None:
    blobs = Blobs()
    budget = 0.4 * slim.cost(blobs.net, X).macs
    every = [slim.WidthPlan(plan) for plan in itertools.product((8, 16, 24, 32), repeat=4)]
    costs = slim.plan_costs(blobs.net, X)(every).macs
    within = [plan for plan, macs in zip(every, costs.tolist(), strict=True) if macs <= budget]

    def scored(plan: slim.WidthPlan, seed: int) -> float:
        with slim.at_width(blobs.net.eval(), plan), torch.no_grad():
            return blobs.score(seed)(blobs.net)

    best = min(scored(plan, 0) for plan in within)
    noise = torch.tensor([scored(within[0], seed) for seed in range(20)]).std()
    found = slim.search(
        blobs.net, blobs.score(0), [0.4], example=X, method="evolution", steps=4, evaluations=60, population=16
    )
    assert found.evaluations <= 60 < len(within)
    assert best <= found[0].score <= best + 0.5 * float(noise)
    assert found[0].plan in within


def test_a_space_that_is_used_up_ends_the_evolution() -> None:
    found = slim.search(four_groups(), priced, [0.12], example=X, method="evolution", steps=4, evaluations=500)
    assert found.evaluations < 100


@pytest.mark.parametrize("method", METHODS)
def test_plans_are_within_their_budgets_and_the_network_is_as_before(method: str) -> None:
    net = chain()
    kept = slim.WidthPlan((8, 16, 32))
    slim.calibrate(net, CALIBRATION, [kept, 0.5])
    slim.set_width(net, 0.5)
    calibrated = net.slim.calibrated()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = slim.search(
        net, loss, [0.7, 0.4], example=IMAGES[:1], method=method, calibrate=CALIBRATION, evaluations=8, population=4
    )
    full = slim.cost(net, IMAGES[:1]).macs
    for one, share in zip(found, (0.7, 0.4), strict=True):
        cost = slim.cost(net, IMAGES[:1], one.plan)
        assert (one.macs, one.params) == (cost.macs, cost.params)
        assert one.cost == one.macs <= share * full
        assert one.score == one.history[-1].score
        assert one.plan == one.history[-1].plan
    assert net.training and slim.current_width(net) == 0.5
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert net.slim.calibrated() == calibrated
    slim.set_width(net.eval(), kept)
    net(IMAGES[:2])


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_finds_the_same(method: str) -> None:
    def run(seed: int) -> list[Any]:
        found = slim.search(
            four_groups(), priced, ["3k macs"], example=X, method=method, seed=seed, evaluations=6, population=3
        )
        return [one.history for one in found]

    assert run(3) == run(3)
    if method in ("evolution", "random"):
        assert run(3) != run(4)


def test_a_score_is_that_of_the_plan_with_statistics_of_its_own() -> None:
    net = chain()
    found = slim.search(net, loss, [0.5], example=IMAGES[:1], calibrate=CALIBRATION)[0]
    for visited in (found.history[0], found.history[-1]):
        slim.calibrate(net, CALIBRATION, [visited.plan])
        with slim.at_width(net.eval(), visited.plan), torch.no_grad():
            assert loss(net) == visited.score


def test_random_numbers_in_a_score_are_the_same_for_all_plans() -> None:
    def noisy(net: nn.Module) -> float:
        return priced(net) + float(torch.rand(()))

    net = four_groups()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = slim.search(net, noisy, [0.5], example=X)[0]
    assert torch.equal(torch.get_rng_state(), before)
    offsets = {round(v.score - float((PRICES * (32 - torch.tensor(v.plan.channels))).sum()), 6) for v in found.history}
    assert len(offsets) == 1


def test_equal_plans_are_scored_once() -> None:
    seen: list[tuple[int, ...]] = []

    def counting(net: nn.Module) -> float:
        seen.append(net.slim.channels)
        return priced(net)

    found = slim.search(four_groups(), counting, [0.6, 0.3], example=X, steps=4)
    assert len(seen[1:]) == len(set(seen[1:])) == found.evaluations  # the first call measures a plain forward


def test_uniform_is_the_widest_width_within_the_budget() -> None:
    net = four_groups()
    found = slim.search(net, priced, [0.5], example=X, method="uniform")[0]
    macs = {w / 32: sum(a * b for a, b in itertools.pairwise((8, *[w] * 4, 4))) for w in (8, 16, 24, 32)}
    widest = max(width for width, cost in macs.items() if cost <= 0.5 * macs[1.0])
    assert found.plan.channels == net.slim.channels_at(widest)


@pytest.mark.parametrize(("budget", "unit"), [("2k params", "params"), ("2000 params", "params"), ("1.5k", "macs")])
def test_budgets_in_numbers(budget: str, unit: str) -> None:
    found = slim.search(four_groups(), priced, budget, example=X)[0]
    assert found.budget.unit == unit
    assert getattr(found, unit) == found.cost <= found.budget.amount


def test_plans_become_switches_and_dense_networks() -> None:
    net = chain()
    plans = [one.plan for one in slim.search(net, loss, [0.8, 0.4], example=IMAGES[:1], calibrate=CALIBRATION)]
    slim.calibrate(net, CALIBRATION, plans)
    frozen = slim.freeze(net, plans)
    for plan in plans:
        slim.set_width(net.eval(), plan)
        slim.set_width(frozen, plan)
        expected = net(IMAGES)
        torch.testing.assert_close(slim.extract(net, plan)(IMAGES), expected)
        torch.testing.assert_close(frozen(IMAGES), expected)
    switchable = slim.convert(
        slim.extract(net, slim.WidthPlan(net.slim.layout.full)),
        IMAGES[:2],
        widths=slim.Switches(*plans),
        norm="switchable",
    )
    assert set(switchable.slim.widths.widths) == set(plans)


def test_what_was_found_stands_for_its_plan() -> None:
    net = four_groups()
    found = slim.search(net, priced, [0.6, 0.3], example=X)
    plans = [one.plan for one in found]
    assert slim.Switches(*found) == slim.Switches(*plans)
    costs = slim.plan_costs(net, X)
    assert costs(found).macs.tolist() == costs(plans).macs.tolist() == [one.macs for one in found]
    with pytest.raises(ValueError, match=r"a FoundPlan is more than a width; pass its .plan: WidthPlan\(channels="):
        slim.set_width(net, found[0])


def test_a_result_prints_as_a_table_and_tells_its_effort() -> None:
    found = slim.search(four_groups(), priced, [0.6, 0.3], example=X)
    assert found.seconds > 0 and found.overhead > 0
    text = str(found)
    assert f"{found.evaluations} plans scored" in text
    assert f"{found[1].macs:,} macs" in text


def test_progress_is_told_to_the_end() -> None:
    told: list[Any] = []
    slim.search(four_groups(), priced, [0.6, 0.3], example=X, progress=told.append)
    shares = [progress.done for progress in told]
    assert shares == sorted(shares) and shares[-1] == 1
    assert told[-1].evaluations > 10
    assert "plans" in str(told[-1])


def test_a_bar_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    slim.search(four_groups(), priced, [0.6], example=X, progress=True)
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budgets": [0.001]}, r"no plan is within the budget of 0.001 of all macs: the fewest channels, one step for"),
        ({"budgets": ["10"]}, r"budget '10' is neither a share .* with a unit; write for example 0.5"),
        ({"budgets": [300]}, r"budget 300 is neither a share in .* with a unit.*'300M macs'"),
        ({"budgets": [True]}, r"budget True is neither a share"),
        ({"budgets": [0.0]}, r"budget 0.0 is neither a share"),
        ({"budgets": []}, r"a search needs a budget"),
        ({"budgets": [0.5, "2k params"]}, r"one unit; got 0.5 of all macs, 2000 params"),
        ({"budgets": [0.5, 0.5]}, r"only once"),
        ({"budgets": ["5 ms"]}, r"needs a table of times: latency=slimlib.latency_table"),
        (
            {"method": "best"},
            r"method 'best' does not exist; choose one of greedy, evolution, ranking, ",
        ),
        ({"per": "channel"}, r"per='channel' does not exist; choose 'cost'.*or 'step'"),
        ({"steps": 1}, r"steps=1 must be a whole number, at least 2"),
        ({"evaluations": 0}, r"evaluations=0 must be a whole number, at least 1"),
        ({"workers": 0}, r"workers=0 must be a whole number of processes"),
        ({"start": slim.WidthPlan([8, 8])}, r"the WidthPlan has 2 numbers, and this network 4 groups"),
        ({"start": slim.WidthPlan([8, 8, 8, 64])}, r"asks for 64 channels of 'layers.3'"),
        ({"start": float("nan")}, r"start: width nan is not a number"),
        ({"start": 7.0}, r"start: width 7 is outside what this network was converted for"),
        ({"start": [16, 16]}, r"start: width \[16, 16\] is neither a number in \(0, 1\] nor a WidthPlan"),
        (
            {"start": slim.WidthPlan([8] * 4), "method": "random"},
            "start= has no meaning for method='random'; it is for greedy, evolution, ranking",
        ),
        ({"start": slim.WidthPlan([8] * 4), "method": "uniform"}, "start= has no meaning for method='uniform'"),
        ({"ranking": slim.channel_scores(four_groups())}, "ranking= has no meaning for method='greedy'"),
        ({"method": "uniform", "budgets": [0.001]}, r"no uniform width is within the budget"),
        ({"method": "ranking", "budgets": [0.01]}, r"no plan is within the budget"),
        ({"score": lambda net: float("nan")}, r"is nan, which cannot be compared"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], message: str, tmp_path) -> None:
    path = tmp_path / "plans.json"
    with pytest.raises(ValueError, match=message):
        slim.search(four_groups(), **{"score": priced, "budgets": [0.5], "example": X, "path": path, **arguments})
    assert not list(tmp_path.iterdir())


def test_a_score_that_is_not_finite_is_refused_with_the_plan() -> None:
    net = chain()

    def broken(model: nn.Module) -> float:
        return float("nan") if model.slim.channels[0] < 16 else 0.0

    before = net.state_dict().keys()
    with pytest.raises(ValueError, match=r"the score of WidthPlan\(channels=\(8, 32, 64\)\) is nan"):
        slim.search(net, broken, [0.5], example=IMAGES[:1], calibrate=CALIBRATION)
    assert net.state_dict().keys() == before
    assert slim.current_width(net) == 1.0


def test_batchnorm_without_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="has BatchNorm, whose statistics each plan needs of its own; pass calibrate="):
        slim.search(chain(), loss, [0.5], example=IMAGES[:1])


def test_a_ranking_of_another_network_is_refused() -> None:
    other = slim.channel_scores(chain())
    with pytest.raises(ValueError, match="the scores are of another network"):
        slim.search(four_groups(), priced, [0.5], example=X, method="ranking", ranking=other)


def test_a_network_of_switches_alone_is_refused() -> None:
    net = slim.convert(
        nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 2, 1)),
        IMAGES[:2],
        widths=slim.Switches(0.5, 1.0),
        norm="switchable",
    )
    with pytest.raises(ValueError, match="computes only at its switches"):
        slim.search(net, loss, [0.5], example=IMAGES[:1], calibrate=CALIBRATION)
