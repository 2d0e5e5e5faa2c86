"""Outputs are the same but for rounding, whatever their size; all else is a difference."""

from __future__ import annotations

import pytest
import torch

from slimlib.core.tolerance import Tolerance

EXPECTED = torch.tensor([1.0, -200.0, 0.0, 3.0])
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("off", "differs"), [(0.0, False), (0.015, False), (0.5, True), (-0.5, True)])
def test_what_counts_is_how_far_it_is_off_compared_with_the_largest(scale: float, off: float, differs: bool) -> None:
    got = scale * (EXPECTED + torch.tensor([0.0, 0.0, off, 0.0]))
    assert Tolerance().differ(scale * EXPECTED, got) is differs


@pytest.mark.parametrize("special", [NAN, INF, -INF])
def test_what_is_no_finite_number_must_be_the_same_in_both(special: float) -> None:
    expected = torch.cat([EXPECTED, torch.tensor([special])])
    assert not Tolerance().differ(expected, expected.clone())
    for other in {NAN, INF, -INF, 0.0} - {special}:
        assert Tolerance().differ(expected, torch.cat([EXPECTED, torch.tensor([other])]))
    assert Tolerance().differ(expected, expected + torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])), "the others still count"


def test_other_shapes_differ_even_where_they_broadcast() -> None:
    assert Tolerance().differ(torch.ones(2, 3), torch.ones(1, 3))
    assert not Tolerance().differ(torch.ones(0, 3), torch.ones(0, 3))


def test_whole_numbers_count_where_they_are_asked_for() -> None:
    first, second = torch.tensor([1, 2]), torch.tensor([1, 3])
    assert not Tolerance().differ(first, second)
    assert Tolerance(whole=True).differ(first, second) and not Tolerance(whole=True).differ(first, first.clone())


def test_complex_numbers_are_compared() -> None:
    assert Tolerance().differ(torch.tensor([1 + 1j]), torch.tensor([1 + 2j]))
    assert not Tolerance().differ(torch.tensor([1 + 1j]), torch.tensor([1 + 1.0001j]))


def test_a_network_of_a_coarse_type_may_be_further_off() -> None:
    half = Tolerance.of(torch.nn.Linear(2, 2).half())
    assert half.relative > Tolerance.of(torch.nn.Linear(2, 2)).relative == Tolerance().relative
