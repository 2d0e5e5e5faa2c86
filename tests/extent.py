"""How far the tests go: minutes, or with NIGHTLY=1 (`tox -e nightly`) the long forms too, which take hours."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

NIGHTLY = os.environ.get("NIGHTLY") == "1"


def at_night(*values: Any) -> Any:
    """The values of a parametrized test, in its long form alone; a `pytest.param` keeps its other marks."""
    if len(values) == 1 and hasattr(values[0], "marks"):
        return pytest.param(*values[0].values, marks=[*values[0].marks, pytest.mark.nightly], id=values[0].id)
    return pytest.param(*values, marks=pytest.mark.nightly)


def one_by_day(values: Iterable[Any]) -> list[Any]:
    """The values of a parametrized test of one kind: the first always, the others in the long form alone."""
    first, *others = values
    return [first, *map(at_night, others)]


def each_once_by_day(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    """All pairs of values of two kinds, as many of each: each value in one pair always, in the others at night."""
    return [(a, b) if i == k else at_night(a, b) for i, a in enumerate(one) for k, b in enumerate(other)]
