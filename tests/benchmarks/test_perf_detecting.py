"""The timings of detectors compare what is equal but for slimlib."""

from __future__ import annotations

import importlib.util

import pytest

if importlib.util.find_spec("torchvision") is None:
    pytest.skip("needs torchvision: pip install -e '.[detection]'", allow_module_level=True)

from benchmarks.perf.detecting import detecting


def test_detectors_with_equal_features_are_compared_at_each_width() -> None:
    rows = list(detecting("Faster R-CNN", widths=(0.25,), side=64, rounds=1))  # compares the features
    assert [(m.what, m.setting) for m in rows] == [
        (f"detection {kind}", f"width 0.25, {part}")
        for part in ("backbone with pyramid", "whole")
        for kind in ("in place", "extracted")
    ]
    assert all(0.05 < m.value.median < 20 for m in rows)
