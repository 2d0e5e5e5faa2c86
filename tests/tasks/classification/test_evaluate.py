"""Top-k errors, of a network at several widths in one reading of the data."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import slimlib as slim
from tasks.classification.evaluate import CentreCrop, errors, metrics_for, misses
from tasks.points import OperatingPoint


def points(*widths):
    return [OperatingPoint.of_width(width) for width in widths]


def naive_misses(scores, labels, k):
    """By sorting: of equal scores the first class comes first."""
    wrong = 0
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        best = sorted(range(len(row)), key=lambda c: -row[c])[:k]
        wrong += label not in best
    return wrong


@given(st.integers(1, 12), st.integers(2, 9), st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_misses_equal_those_of_sorting_with_many_ties(n, classes, values, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, values, (n, classes), generator=generator).float()
    labels = torch.randint(0, classes, (n,), generator=generator)
    tops = list(range(1, classes + 1))
    found = misses(scores, labels, tops)
    assert found.dtype == torch.int64
    assert found.tolist() == [naive_misses(scores, labels, k) for k in tops]


def test_scores_that_are_no_numbers_are_misses():
    scores = torch.tensor([[float("nan")] * 3, [float("nan"), 1.0, 0.0], [0.0, float("nan"), 1.0]])
    assert misses(scores, torch.tensor([0, 0, 2]), [1, 2]).tolist() == [3, 2]


@pytest.fixture
def net():
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 7),
    )  # fmt: skip
    slim.convert(dense, torch.randn(1, 3, 6, 6), widths=slim.WidthRange(0.25, 1.0), divisor=4)
    slim.calibrate(dense, [torch.randn(8, 3, 6, 6)], widths=[0.25, 0.5, 1.0])
    return dense


class Batches:
    """Batches of noise, and how often each was read."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.all = [
            (torch.randn(n, 3, 6, 6, generator=generator), torch.randint(0, 7, (n,), generator=generator))
            for n in (20, 20, 9)
        ]
        self.read = 0

    def __iter__(self):
        for batch in self.all:
            self.read += 1
            yield batch


def test_several_widths_score_as_each_alone_and_data_are_read_once(net):
    batches, widths = Batches(), [0.25, 1.0, 0.5]
    together = errors(net, batches, points(*widths), tops=[1, 5])
    assert batches.read == 3
    for width, found in zip(widths, together, strict=True):
        with slim.at_width(net, width):
            assert errors(net, Batches(), tops=[1, 5]) == [found]
            with torch.no_grad():
                outputs = [(net.eval()(x), labels) for x, labels in batches.all]
        expected = [100 * sum(naive_misses(out, labels, k) for out, labels in outputs) / 49 for k in (1, 5)]
        assert found == expected
    assert len({tuple(found) for found in together}) > 1


def test_mode_and_width_are_as_before(net):
    slim.set_width(net, 0.5)
    net.train()
    errors(net, Batches(), points(1.0, 0.25), tops=[1])
    assert net.training and slim.current_width(net) == 0.5
    net.eval()
    errors(net, Batches(), tops=[1])
    assert not net.training and slim.current_width(net) == 0.5


def test_a_width_that_cannot_be_scored_leaves_the_network_as_it_was(net):
    slim.set_width(net, 1.0)
    net.train()
    with pytest.raises(slim.UncalibratedWidth):
        errors(net, Batches(), points(0.25, 0.75), tops=[1])
    assert net.training and slim.current_width(net) == 1.0


def test_no_images_and_no_widths(net):
    assert errors(net, Batches(), [], tops=[1]) == []
    with pytest.raises(ValueError, match="no images to score"):
        errors(net, [], points(1.0), tops=[1])


def test_top_5_needs_more_than_5_classes():
    assert [metric.name for metric in metrics_for(6)] == ["top1_error", "top5_error"]
    assert [metric.name for metric in metrics_for(5)] == ["top1_error"]
    assert all(metric.unit == "%" and metric.better == "lower" for metric in metrics_for(1000))


@given(st.integers(4, 50), st.integers(4, 50), st.integers(2, 16), st.integers(0, 8))
@settings(max_examples=40, deadline=None)
def test_centre_crops_have_their_size_whatever_the_image(height, width, size, more):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    assert CentreCrop(size, size + more)(image).shape == (3, size, size)


def test_a_centre_crop_is_of_the_middle():
    image = torch.arange(40, dtype=torch.uint8).expand(3, 20, 40)
    assert torch.equal(CentreCrop(10, 20)(image), image[:, 5:15, 15:25])
    assert CentreCrop(10, 10)(image)[0, 0].float().mean() == pytest.approx(19.5, abs=0.6)
