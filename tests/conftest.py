"""Leaves out what is marked `nightly`, unless the long forms are asked for, and begins with the longest files."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from tests.extent import NIGHTLY

HERE = Path(__file__).parent
LONGEST_FIRST = ("regression", "test_documentation.py", "faults", "benchmarks", "tasks", "families")
"""Parts of the tests whose files take minutes; two processes end together only where none of these comes last."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "nightly: takes minutes; runs with NIGHTLY=1 alone")
    # To look for garbage as often as usual takes a minute. What is frozen Python counts whenever `follow` asks for it,
    # which takes longer than to look at it now and then.
    gc.set_threshold(10_000, 20, 20)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, as `-m` does, rather than skip: a skip would hide what is missing."""
    items.sort(key=_place)  # which keeps the order within a part
    if NIGHTLY:
        return
    long = [item for item in items if item.get_closest_marker("nightly")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in set(long)]


def _place(item: pytest.Item) -> int:
    part = item.path.relative_to(HERE).parts[0]
    return LONGEST_FIRST.index(part) if part in LONGEST_FIRST else len(LONGEST_FIRST)
