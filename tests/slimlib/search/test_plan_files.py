"""A search that was killed goes on to the same result, and its file tells plans from half a search."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import slimlib as slim
from slimlib.search import plan_file
from tests.faults.crash_points import forked
from tests.slimlib.search.searched import CALIBRATION, IMAGES, chain, four_groups, loss
from tests.slimlib.search.test_search import X, priced

BUDGETS = [0.7, 0.4]


def whole(
    method: str = "greedy", path: Path | None = None, *, score: Callable[[nn.Module], Any] = loss, **more: Any
) -> slim.FoundPlans:
    arguments = {"example": IMAGES[:1], "calibrate": CALIBRATION, "evaluations": 8, "population": 4, **more}
    return slim.search(chain(), score, BUDGETS, method=method, path=path, **arguments)


def killed(method: str, path: Path, after: int, seconds: float) -> int:
    """Search, and die in the score after so many; a process of its own."""
    plan_file.SECONDS_BETWEEN_WRITES = seconds
    left = after

    def dying(net: nn.Module) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(net)

    whole(method, path, score=dying)
    return 0


@pytest.mark.parametrize(("method", "after"), [("greedy", 4), ("greedy", 9), ("evolution", 6)])
def test_a_killed_search_goes_on_to_the_same_result(method: str, after: int, tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    seconds = 1000.0 if after == 9 else 0.0  # nothing since the beginning was written, or everything
    assert forked(partial(killed, method, path, after, seconds)) == -signal.SIGKILL
    with pytest.raises(ValueError, match=r"a search that has not ended.*call slimlib.search with this path to go on"):
        slim.load_plans(path)
    held = json.loads(path.read_text())["scores"]
    assert len(held) == (0 if after == 9 else after - 1)  # the first call measures a plain forward
    resumed, expected = whole(method, path), whole(method)
    assert resumed.plans == expected.plans
    assert resumed.evaluations == expected.evaluations
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_scored_is_not_scored_again(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"

    class Enough(Exception):
        pass

    def scored(limit: int) -> list[tuple[int, ...]]:
        seen: list[tuple[int, ...]] = []

        def score(net: nn.Module) -> float:
            if len(seen) == limit:
                raise Enough
            seen.append(net.slim.channels)
            return priced(net)

        with suppress(Enough):
            slim.search(four_groups(), score, [0.5], example=X, path=path)
        return seen[1:]

    every = set(scored(10**9))
    path.unlink()
    first = scored(8)
    second = scored(10**9)
    assert set(first) | set(second) == every
    known = {tuple(plan) for plan, _ in json.loads(path.read_text())["scores"]}
    assert known == every


def test_a_finished_search_is_read_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    found = whole(path=path)

    def never(net: nn.Module) -> float:
        raise AssertionError("scored again")

    again = slim.search(
        chain(), never, BUDGETS, example=IMAGES[:1], calibrate=CALIBRATION, evaluations=8, population=4, path=path
    )
    assert again.plans == found.plans == slim.load_plans(path).plans == slim.load_plans(path, chain()).plans
    assert [one.plan for one in slim.load_plans(path)] == [one.plan for one in found]


CHANGES: list[tuple[str, dict[str, Any]]] = [
    (r"other method: 'greedy' there, 'random' here", {"method": "random"}),
    (r"other seed: 0 there, 1 here", {"seed": 1}),
    (r"other calibration batches", {"calibrate": CALIBRATION[:1]}),
    (r"other example", {"example": torch.zeros(1, 3, 24, 24)}),
    (r"other steps: 12 there, 6 here", {"steps": 6}),
]


@pytest.mark.parametrize(("message", "change"), CHANGES)
def test_a_file_of_another_search_is_refused_and_kept(message: str, change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    whole(path=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        whole(path=path, **change)
    assert path.read_bytes() == before


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    slim.search(four_groups(), priced, [0.5], example=X, path=path)
    net = four_groups()
    with torch.no_grad():
        net.layers[0].weight[0, 0] += 1e-3
    with pytest.raises(
        ValueError, match=r"other weights of the network\. To go on, call with the same; to start again"
    ):
        slim.search(net, priced, [0.5], example=X, path=path)


def test_plans_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    slim.search(four_groups(), priced, [0.5], example=X, path=path)
    message = r"plans of another network: 'layers.0' with 32 channels there, 'features.0.0' with 16 here"
    with pytest.raises(ValueError, match=message):
        whole(path=path)
    with pytest.raises(ValueError, match=message):
        slim.load_plans(path, chain())


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 2}', '{"format": 1}', "\x00\x01"])
def test_what_is_no_plan_file_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    path.write_text(content)
    for read in (
        lambda: slim.load_plans(path),
        lambda: slim.search(four_groups(), priced, [0.5], example=X, path=path),
    ):
        with pytest.raises(ValueError, match="plan file"):
            read()
    assert path.read_text() == content


@pytest.mark.parametrize(
    "change",
    [
        {"result": [{}]},
        {"result": [{"plan": 3}]},
        {"result": []},
        {"scores": [3]},
        {"scores": None},
        {"scores": [[[32, 32, 32], 0.1]]},
        {"scores": [[[32, 32, 32, 40], 0.1]]},
        {"scores": [["4444", 0.1]]},
        {"seconds": "many"},
        {"about": 3},
        {"groups": 4},
        {"groups": [["layers.0", 32, 8]]},
    ],
    ids=str,
)
def test_a_damaged_plan_file_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    slim.search(four_groups(), priced, [0.5], example=X, path=path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for read in (
        lambda: slim.load_plans(path),
        lambda: slim.search(four_groups(), priced, [0.5], example=X, path=path),
    ):
        with pytest.raises(ValueError, match=r"is a damaged plan file .*; remove it"):
            read()


def test_a_ranking_holds_no_plans(tmp_path: Path) -> None:
    path = tmp_path / "ranking.json"
    slim.learned_ranking(
        four_groups(), priced, budget=0.5, example=X, path=path, population=4, tournament=2, evaluations=6
    )
    with pytest.raises(ValueError, match=r"holds a ranking, and no plans; slimlib.learned_ranking with this path"):
        slim.load_plans(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        slim.load_plans(tmp_path / "none.json")


def test_a_place_that_cannot_be_written_is_told_before_anything_is_scored(tmp_path: Path) -> None:
    def never(net: nn.Module) -> float:
        raise AssertionError("scored")

    with pytest.raises(OSError, match=r"cannot write .*missing/plans.json"):
        slim.search(four_groups(), never, [0.5], example=X, path=tmp_path / "missing" / "plans.json")


def test_a_score_that_fails_leaves_what_was_scored(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"

    def failing(net: nn.Module) -> float:
        return float("inf") if net.slim.channels[0] < 24 else priced(net)

    with pytest.raises(ValueError, match="is inf"):
        slim.search(four_groups(), failing, [0.3], example=X, path=path, steps=4)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="has not ended"):
        slim.load_plans(path)
    found = slim.search(four_groups(), priced, [0.3], example=X, path=path, steps=4)
    assert found.plans == slim.search(four_groups(), priced, [0.3], example=X, steps=4).plans
