"""Classification of the digits of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.regression.bands import DIGITS
from tests.regression.checks import OfOneTask


class TestClassification(OfOneTask):
    band = DIGITS

    def test_widths_without_calibration_are_lost(self, results: Path) -> None:
        error = self.table(results).xs("top1_error", level="metric").droplevel("dataset")
        assert error["none", 0.25] > error["16 batches", 0.25] + 20

    @pytest.mark.nightly
    def test_the_sandwich_errs_rarely_at_every_width(self, scores: dict[float, float]) -> None:
        assert max(scores.values()) < 15  # of 90 by chance
