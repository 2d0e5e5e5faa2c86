"""Held-out images: of every class, never trained on, and the same ones for ever."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tasks.classification.holding_out import hold_out_count, hold_out_fraction
from tasks.classification.images import DecodedImages


def numbered(sizes):
    """Images of one pixel that show their own number; `sizes` of each class, mixed."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    numbers = torch.arange(len(labels))
    pixels = torch.stack([numbers % 256, numbers // 256, labels], dim=1).to(torch.uint8)[:, :, None, None]
    return DecodedImages("mine", [f"class {i}" for i in range(len(sizes))], pixels, labels)


def numbers(images):
    assert torch.equal(images.pixels[:, 2, 0, 0].long(), images.labels)
    return (images.pixels[:, 0, 0, 0].long() + 256 * images.pixels[:, 1, 0, 0].long()).tolist()


def class_sizes(images):
    return torch.bincount(images.labels, minlength=len(images.classes)).tolist()


@given(st.lists(st.integers(3, 40), min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_a_count_is_held_out_in_proportion(sizes, data):
    count = data.draw(st.integers(1, sum(sizes) // 2))
    images = numbered(sizes)
    kept, held = hold_out_count(images, count, name="search")
    assert len(held) == count
    assert sorted(numbers(kept) + numbers(held)) == list(range(len(images)))
    for size, share in zip(sizes, class_sizes(held), strict=True):
        assert abs(share - size * count / len(images)) < 1
    assert (kept.name, held.name, held.classes) == ("mine", "search", images.classes)


@given(st.lists(st.integers(2, 40), min_size=1, max_size=8))
@settings(deadline=None)
def test_a_fraction_is_held_out_of_every_class(sizes):
    images = numbered(sizes)
    kept, held = hold_out_fraction(images, 1 / 10, name="held-out")
    assert class_sizes(held) == [max(1, (size + 5) // 10) for size in sizes]
    assert sorted(numbers(kept) + numbers(held)) == list(range(len(images)))


def test_the_held_out_images_never_change():
    """These numbers are part of what results mean: if this fails, published scores are of other images."""
    torch.manual_seed(5)
    _, held = hold_out_count(numbered([30, 20, 10]), 6, name="search")
    assert numbers(held) == [9, 11, 17, 23, 25, 57]


def test_of_a_larger_count_a_smaller_one_is_part():
    images = numbered([50, 50])
    small, large = (set(numbers(hold_out_count(images, count, name="s")[1])) for count in (10, 30))
    assert small < large


def test_what_would_leave_nothing_is_refused():
    with pytest.raises(ValueError, match="hold_out=5 of the 5 training images of mine: nothing is left"):
        hold_out_count(numbered([3, 2]), 5, name="search")
    with pytest.raises(ValueError, match=r"the class 'class 1' of mine has 1 image\(s\), and 1 would be held out"):
        hold_out_fraction(numbered([3, 1]), 1 / 10, name="held-out")
    with pytest.raises(ValueError, match="class 1' of mine has 1"):
        hold_out_count(numbered([3, 1]), 3, name="search")


def test_a_class_without_images_is_left_alone():
    kept, held = hold_out_count(numbered([10, 0, 10]), 4, name="search")
    assert class_sizes(held) == [2, 0, 2]
    assert class_sizes(kept) == [8, 0, 8]
