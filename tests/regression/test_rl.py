"""Policies on CartPole."""

from __future__ import annotations

import pytest

from tests.regression.bands import CARTPOLE
from tests.regression.checks import OfOneTask


class TestPolicies(OfOneTask):
    band = CARTPOLE

    @pytest.mark.nightly
    def test_the_sandwich_solves_cartpole_and_nearly_so_with_four_units(self, scores: dict[float, float]) -> None:
        assert scores[1.0] >= 475, "which is called solved"
        assert scores[0.0625] >= 400
