"""Patches cover an image, and are blended without seams."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import slimlib as slim
from tasks.sr.difficulty import ErrorTable, cheapest, difficulty
from tasks.sr.networks import wdsr_a
from tasks.sr.patches import Tiling


@given(st.integers(1, 150), st.integers(1, 150), st.integers(4, 60), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_cut_and_blended_an_image_is_itself(height: int, width: int, core: int, margin: int) -> None:
    image = torch.rand(1, 2, height, width)
    tiling = Tiling.of(height, width, core=core, margin=margin)
    patches = tiling.cut(image)
    assert patches.shape[0] == len(tiling)
    torch.testing.assert_close(tiling.blend(patches, 1), image)
    double = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(tiling.blend(tiling.cut(double, 2), 2), double)


RADIUS = 1 + 2 * 2 + 2  # of the receptive field: head, two convolutions in each of two blocks, tail and skip


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_one_width_over_patches_is_the_whole_image(width: float) -> None:
    torch.manual_seed(0)
    net = slim.convert(wdsr_a(features=8, hidden=16, blocks=2, scale=2), torch.rand(1, 3, 16, 16), divisor=4).eval()
    image = torch.rand(1, 3, 70, 55)
    tiling = Tiling.of(70, 55, core=20, margin=RADIUS + 1)
    assert len(tiling) > 4
    with torch.no_grad(), slim.at_width(net, width):
        patches = tiling.blend(net(tiling.cut(image)), 2)
        torch.testing.assert_close(patches, net(image), rtol=1e-4, atol=1e-5)
        seams = tiling.blend(net(tiling.cut(image)), 2) - net(image)
    assert float(seams.abs().max()) < 1e-5


def test_small_margins_differ_little_and_at_no_image_border() -> None:
    torch.manual_seed(0)
    net = wdsr_a(features=8, hidden=16, blocks=2, scale=2).eval()
    image = torch.rand(1, 3, 70, 55)
    tiling = Tiling.of(70, 55, core=30, margin=3)
    with torch.no_grad():
        gaps = (tiling.blend(net(tiling.cut(image)), 2) - net(image)).abs()
    assert float(gaps.max()) > 0 and float(gaps[..., :10, :10].max()) < 1e-6


def test_difficulty_is_of_edges() -> None:
    flat = torch.full((1, 3, 16, 16), 0.5)
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    noise = torch.rand(1, 3, 16, 16)
    values = difficulty(torch.cat([flat, ramp, noise]))
    assert float(values[0]) < 1e-6 and float(values[1]) < 1e-6 < 0.05 < float(values[2])


def test_the_table_has_the_mean_error_of_patches_as_hard() -> None:
    hard = torch.arange(64, dtype=torch.double)
    errors = torch.stack([2 * hard, hard])
    table = ErrorTable.fitted(hard, errors, bins=4)
    found = table.expected(torch.tensor([0.0, 15.0, 63.0, 1000.0]))
    assert found[1].tolist() == pytest.approx([7.5, 7.5, 55.5, 55.5], abs=0.6)
    torch.testing.assert_close(found[0], 2 * found[1])


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_price_is_never_dearer(seed: int, price: float, more: float) -> None:
    errors = torch.rand(3, 12, generator=torch.Generator().manual_seed(seed)).double()
    costs = [0.0, 0.3, 1.0]
    spent = [sum(costs[each] for each in cheapest(errors, costs, p).tolist()) for p in (price, price + more)]
    assert spent[0] >= spent[1]
    free = cheapest(errors, costs, 0.0)
    assert torch.equal(free, errors.argmin(0))


def test_impossible_patches() -> None:
    with pytest.raises(ValueError, match="core and a margin of at least 1"):
        Tiling.of(20, 20, core=0)
