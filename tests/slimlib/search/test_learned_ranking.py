"""A learned ranking says how channels of different layers compare, and gives nested plans."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

import slimlib as slim
from slimlib.search.scores import ChannelScores
from slimlib.search.space import Space, cut, ladders
from tests.slimlib.search.searched import CALIBRATION, IMAGES, chain, channels, four_groups, loss

X = torch.zeros(1, 8)


def learned(net: nn.Module, score: Any, **more: Any) -> ChannelScores:
    arguments = {"example": X, "evaluations": 60, "population": 16, "tournament": 4, **more}
    return slim.learned_ranking(net, score, 0.3, **arguments)


def space(net: nn.Module) -> Space:
    costs = slim.plan_costs(net, X)
    return Space(net.slim.layout, ladders(net.slim.layout, None, least=0.1), lambda c: costs(c).macs.double())


def test_a_cut_keeps_what_scores_above_one_threshold() -> None:
    """Worked out by hand: the groups whose channels all score higher stay whole as long as they can."""
    values = [torch.linspace(1, 0, 32) + shift for shift in (0.0, 2.0, 0.0, 2.0)]
    net = four_groups()
    plans = space(net)
    channels_at = {
        share: plans.channels(cut(plans, values, share * 3456)[None])[0].tolist() for share in (0.99, 0.5, 0.2)
    }
    assert channels_at[0.99][1] == channels_at[0.99][3] == 32
    assert channels_at[0.5][1] == channels_at[0.5][3] == 32
    assert channels_at[0.5][0] == channels_at[0.5][2] < 32
    assert channels_at[0.2][0] == channels_at[0.2][2] == 8  # a divisor stays


def test_plans_of_harder_budgets_are_part_of_those_of_milder_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.rand(32, generator=generator) * scale for scale in (1, 3, 2, 0.5)]
    plans = space(four_groups())
    found = [plans.channels(cut(plans, values, share * 3456)[None])[0] for share in (0.9, 0.6, 0.4, 0.2)]
    for wide, narrow in itertools.pairwise(found):
        assert bool((narrow <= wide).all())


def test_it_learns_which_layers_matter() -> None:
    """The norms of all groups are alike, and the loss depends on two of them alone."""

    def score(net: nn.Module) -> float:
        return float((32 - channels(net))[[1, 3]].sum())

    net = four_groups()
    plain = slim.search(net, score, [0.3], example=X, method="ranking", ranking=slim.channel_scores(net))[0]
    ranking = learned(net, score)
    found = slim.search(net, score, [0.3], example=X, method="ranking", ranking=ranking)[0]
    assert ranking.by == "learned"
    assert found.score < plain.score
    assert found.plan.channels[1] + found.plan.channels[3] > plain.plan.channels[1] + plain.plan.channels[3]


def test_the_order_within_a_group_is_that_of_the_scores_it_began_with() -> None:
    net = four_groups()
    ranking = learned(net, lambda model: float(channels(model).sum()))
    for before, after in zip(slim.channel_scores(net).values, ranking.values, strict=True):
        assert torch.equal(before.argsort(), after.argsort())


def test_the_first_that_is_tried_is_the_scores_as_they_are() -> None:
    tried: list[tuple[int, ...]] = []

    def noted(net: nn.Module) -> float:
        tried.append(net.slim.channels)
        return 0.0

    net = four_groups()
    ranking = learned(net, noted, evaluations=1)
    values = slim.channel_scores(net).values
    assert all(torch.equal(a, b) for a, b in zip(ranking.values, values, strict=True))
    plans = space(net)
    assert tried == [tuple(plans.channels(cut(plans, values, 0.3 * 3456)[None])[0].tolist())]


def test_candidates_are_the_best_channels_and_the_network_stays() -> None:
    """The score sees a sorted copy: its leading channels are those of the highest score."""
    net = chain()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    seen: list[bool] = []

    def score(model: nn.Module) -> float:
        values = slim.channel_scores(model).values
        seen.append(all(bool((v.diff() <= 0).all()) for v in values) and model is not net)
        return loss(model)

    arguments = {"example": IMAGES[:1], "calibrate": CALIBRATION, "evaluations": 6}
    learned(net, score, **arguments)
    assert seen and all(seen)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    slim.sort_channels(net, slim.channel_scores(net))
    in_order = learned(net, loss, order="network", **arguments)
    assert all(bool((v.diff() <= 0).all()) for v in in_order.values)


def test_the_leading_channels_of_a_trained_network_are_taken_as_they_are() -> None:
    net = four_groups()
    seen: set[int] = set()
    ranking = learned(net, lambda model: float(seen.add(id(model)) or 0.0), order="network", evaluations=3)
    assert seen == {id(net)}
    for values, own in zip(ranking.values, slim.channel_scores(net).values, strict=True):
        assert torch.equal(values.argsort(descending=True, stable=True), torch.arange(32))
        assert not torch.equal(own.argsort(descending=True), torch.arange(32))


def test_plans_are_nested_for_all_budgets() -> None:
    net = four_groups()
    ranking = learned(net, lambda model: float((32 - channels(model))[1]))
    moved = slim.sort_channels(net, ranking)
    found = slim.search(
        net,
        lambda model: float((32 - channels(model)).sum()),
        [0.2, 0.8, 0.5],
        example=X,
        method="ranking",
        ranking=moved,
    )
    narrow, wide, middle = (one.plan.channels for one in found)
    assert all(a <= b <= c for a, b, c in zip(narrow, middle, wide, strict=True))
    assert all(count >= 0.1 * 32 for count in narrow)
    for one, share in zip(found, (0.2, 0.8, 0.5), strict=True):
        assert one.cost <= share * slim.cost(net, X).macs


def test_an_interrupted_one_goes_on_to_the_same_result(tmp_path) -> None:
    path, left = tmp_path / "ranking.json", [5]

    class Enough(Exception):
        pass

    def score(net: nn.Module) -> float:
        left[0] -= 1
        if left[0] < 0:
            raise Enough
        return float((32 - channels(net))[1])

    with pytest.raises(Enough):
        learned(four_groups(), score, path=path)
    left[0] = 10**9
    resumed = learned(four_groups(), score, path=path)
    whole = learned(four_groups(), score)
    assert all(torch.equal(a, b) for a, b in zip(resumed.values, whole.values, strict=True))
    with pytest.raises(ValueError, match="holds a ranking, and no plans"):
        slim.load_plans(path)
    with pytest.raises(ValueError, match="holds a ranking, not a search; give another path"):
        slim.search(four_groups(), score, [0.3], example=X, path=path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "mine"}, "order='mine' does not exist; choose 'scores' or 'network'"),
        ({"tournament": 17}, "tournament=17 must be from 1 to the population of 16"),
        ({"population": 1}, "population=1 must be a whole number, at least 2"),
        ({"scores": ChannelScores("mine", ("a",), (torch.ones(3),))}, "the scores are of another network"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learned(four_groups(), lambda net: 0.0, **arguments)


def test_a_budget_that_a_tenth_of_each_group_exceeds_is_refused() -> None:
    with pytest.raises(ValueError, match="no plan is within the budget of 0.01"):
        slim.learned_ranking(four_groups(), lambda net: 0.0, 0.01, example=X)
