"""Super-resolution on the photographs of scikit-image and scikit-learn."""

from __future__ import annotations

import pytest

from tests.regression.bands import SR
from tests.regression.checks import OfOneTask, means


class TestSuperResolution(OfOneTask):
    band = SR

    @pytest.mark.nightly
    def test_the_sandwich_beats_bicubic_and_grows_with_the_width(self, scores: dict[float, float]) -> None:
        assert scores[1.0] > means(SR.table)["bicubic", 0, "photos", "psnr"] + 0.3
        assert scores[0.25] < scores[0.5] < scores[1.0]
