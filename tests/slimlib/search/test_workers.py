"""Several processes score what one does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from torch import nn

import slimlib as slim
from tests.slimlib.search.searched import CALIBRATION, IMAGES, chain, four_groups, loss
from tests.slimlib.search.test_search import X, priced


@pytest.mark.parametrize("method", ["greedy", "random"])
def test_they_find_the_same(method: str) -> None:
    def run(workers: int) -> slim.FoundPlans:
        return slim.search(
            chain(), loss, [0.6], example=IMAGES[:1], calibrate=CALIBRATION, method=method, evaluations=6,
            workers=workers,
        )  # fmt: skip

    assert run(3).plans == run(1).plans


def test_each_scores_a_part(tmp_path: Path) -> None:
    def noted(net: nn.Module) -> float:
        (tmp_path / str(os.getpid())).touch()
        return priced(net)

    slim.search(four_groups(), noted, [0.9], example=X, steps=4, workers=2)
    assert len(list(tmp_path.iterdir())) >= 3  # the parent, which measures a plain forward, and two others


def test_a_fault_in_one_is_raised() -> None:
    parent = os.getpid()

    def failing(net: nn.Module) -> float:
        if os.getpid() != parent:
            raise KeyError("in a process")
        return 0.0

    with pytest.raises(RuntimeError, match="KeyError: 'in a process'"):
        slim.search(four_groups(), failing, [0.5], example=X, workers=2)


def test_a_score_that_is_not_finite_is_refused_as_ever() -> None:
    parent = os.getpid()
    with pytest.raises(ValueError, match="is nan"):
        slim.search(
            four_groups(), lambda net: 0.0 if os.getpid() == parent else float("nan"), [0.5], example=X, workers=2
        )


def test_a_process_that_dies_is_told() -> None:
    parent = os.getpid()

    def dying(net: nn.Module) -> float:
        if os.getpid() != parent:
            os._exit(1)
        return 0.0

    with pytest.raises(RuntimeError, match="ended before it was done"):
        slim.search(four_groups(), dying, [0.5], example=X, workers=2)
