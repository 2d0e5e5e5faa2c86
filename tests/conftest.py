"""Leaves out what is marked `nightly`, unless the long forms are asked for."""

from __future__ import annotations

import pytest

from tests.extent import NIGHTLY


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "nightly: takes minutes; runs with NIGHTLY=1 alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, as `-m` does, rather than skip: a skip would hide what is missing."""
    if NIGHTLY:
        return
    long = [item for item in items if item.get_closest_marker("nightly")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in set(long)]
