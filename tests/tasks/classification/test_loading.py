"""Batches: the same from any number of workers, in any order of asking, and nothing left behind."""

import multiprocessing
import os
import signal
import time
from contextlib import closing
from itertools import chain, islice

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.utils.data import get_worker_info

from tasks.classification.cache import PixelCache
from tasks.classification.encoded import FileImages
from tasks.classification.folders import list_folder
from tasks.classification.holding_out import hold_out_count
from tasks.classification.images import DecodedImages, part_of, read_at_least, where
from tasks.classification.loading import load
from tasks.training.sampling import sampled
from tests.tasks.classification.small_files import draw

BATCHES = [[3, 1], [0, 5, 5], [4], [2, 1, 0, 3]]


def files(folder, sizes):
    """A set of image files of these (height, width)."""
    for number, (height, width) in enumerate(sizes):
        draw(folder / "ab"[number % 2] / f"{number}.png", height, width, seed=number)
    listing = list_folder(folder)
    return FileImages("mine", listing.classes, listing.labels, folder=folder, paths=listing.paths)


@pytest.fixture
def equal_sides(tmp_path):
    return files(tmp_path / "equal", [(8, 8)] * 6)


@pytest.fixture
def sides_differ(tmp_path):
    return files(tmp_path / "differ", [(8 + number, 12 - number) for number in range(6)])


def cut_and_numbered(image, number, position):
    """A corner of the image, whose first pixels say which call it was."""
    corner = image[:, :4, :4].clone()
    corner[0, 0, :2] = torch.tensor([number, position])
    return corner


def same(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    return all(a.equal(c) and b.equal(d) for (a, b), (c, d) in zip(first, second, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_the_images_in_order(equal_sides, workers):
    batches = list(load(equal_sides, BATCHES, workers=workers))
    for indices, (pixels, labels) in zip(BATCHES, batches, strict=True):
        assert pixels.dtype == torch.uint8
        assert pixels.is_contiguous()
        assert pixels.equal(torch.stack([equal_sides.read(i) for i in indices]))
        assert labels.equal(equal_sides.labels[indices])


def test_workers_change_nothing(sides_differ):
    here, there = (load(sides_differ, BATCHES, prepare=cut_and_numbered, workers=n) for n in (0, 2))
    assert same(here, there)


def test_prepare_is_told_batch_and_position(sides_differ):
    batches = list(load(sides_differ, BATCHES, prepare=cut_and_numbered))
    assert [pixels[:, 0, 0, :2].tolist() for pixels, _ in batches] == [
        [[number, position] for position in range(len(indices))] for number, indices in enumerate(BATCHES)
    ]


@pytest.mark.parametrize("prepare", [None, cut_and_numbered])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_cache_changes_nothing(equal_sides, prepare, workers):
    cached = load(equal_sides, BATCHES, prepare=prepare, workers=workers, cache=PixelCache(1.0))
    assert same(cached, load(equal_sides, BATCHES, prepare=prepare))


def test_loading_takes_no_random_numbers(equal_sides):
    before = torch.get_rng_state()
    list(load(equal_sides, BATCHES, workers=1))
    assert torch.get_rng_state().equal(before)


def test_batches_may_be_endless_and_a_closed_iterator_ends_its_workers(equal_sides):
    before = set(multiprocessing.active_children())
    with closing(load(equal_sides, sampled(6, 4, range(10**9), 0), workers=2)) as loaded:
        assert len(list(islice(loaded, 5))) == 5
        assert len(set(multiprocessing.active_children()) - before) == 2
    assert set(multiprocessing.active_children()) == before


def test_ranges_and_tensors_are_indices_too(equal_sides):
    batches = [range(2, 5), torch.tensor([1, 0])]
    assert same(load(equal_sides, batches), load(equal_sides, [[2, 3, 4], [1, 0]]))
    cache = PixelCache()
    assert same(load(equal_sides, batches, cache=cache), load(equal_sides, batches))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(equal_sides, workers):
    path = equal_sides.where(4)
    with open(path, "wb") as file:
        file.write(b"no image")
    loaded = load(equal_sides, BATCHES, workers=workers)
    assert len(list(islice(loaded, 2))) == 2
    with pytest.raises(ValueError, match=f"^cannot read the image {path}: cannot identify"):
        next(loaded)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_prepared_is_named(equal_sides, workers):
    def prepare(image, number, position):
        return image[:, 1 // (2 - number) :]

    with pytest.raises(ValueError, match=r"^cannot prepare the image .*a/4\.png: ZeroDivisionError"):
        list(load(equal_sides, [[0], [1], [2]], prepare=prepare, workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_different_sizes_are_named_with_what_to_do(sides_differ, workers):
    match = r"b/1\.png is 11 x 9, but .*a/0\.png is 12 x 8; .* need prepare="
    with pytest.raises(ValueError, match=match):
        list(load(sides_differ, [[0, 3]], workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_batches_stays_what_it_is(equal_sides, workers):
    with pytest.raises(ZeroDivisionError):
        list(load(equal_sides, ([1 // (2 - i)] for i in range(4)), workers=workers))


def test_a_number_of_workers_below_zero_is_refused(equal_sides):
    with pytest.raises(ValueError, match="workers=-1: must be 0"):
        load(equal_sides, BATCHES, workers=-1)


class Deadly(DecodedImages):
    """Reading the last image kills the worker that does it."""

    def read(self, index):
        if index == len(self) - 1 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


@pytest.mark.parametrize("n", [2, 4])  # it dies while the main process is busy, and while that waits
def test_a_killed_worker_is_an_error_of_the_iterator_that_names_the_image(n):
    images = Deadly("mine", ["a"], torch.zeros(n, 3, 4, 4, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64))
    loaded = load(images, [[i] for i in range(n)], prepare=lambda image, number, position: image, workers=1)
    with pytest.raises(RuntimeError, match=f"a worker process was killed while it read image {n - 1} of mine; memory"):
        for _ in loaded:
            time.sleep(0.3)  # the worker reads ahead and may die now, but nothing is raised here
    assert not multiprocessing.active_children()


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 40), st.integers(0, 30), st.integers(0, 2**31), st.data())
@settings(deadline=None)
def test_a_step_sees_the_same_images_however_the_steps_are_split(n, batch, start, count, seed, data):
    steps = range(start, start + count)
    cut = data.draw(st.integers(0, count))
    whole = list(sampled(n, batch, steps, seed))
    assert whole == [*sampled(n, batch, steps[:cut], seed), *sampled(n, batch, steps[cut:], seed)]
    assert whole == [next(sampled(n, batch, range(step, step + 1), seed)) for step in steps]
    assert all(len(indices) == batch for indices in whole)


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 2**31))
@settings(deadline=None)
def test_every_epoch_is_a_permutation(n, batch, seed):
    drawn = list(chain.from_iterable(sampled(n, batch, range(3 * n // batch + 1), seed)))
    for epoch in range(3):
        assert sorted(drawn[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = sampled(100, 100, range(2), 0)
    (other,) = sampled(100, 100, range(1), 1)
    assert first != second != other != first
    assert first != sorted(first)


@pytest.mark.parametrize(("n", "batch"), [(0, 4), (4, 0)])
def test_there_must_be_something_to_sample(n, batch):
    with pytest.raises(ValueError, match="at least one of each"):
        sampled(n, batch, range(1), 0)


def test_a_set_is_decoded_once(equal_sides):
    cache = PixelCache(1.0)
    decoded = cache.decoded(equal_sides)
    assert isinstance(decoded, DecodedImages)
    assert cache.decoded(equal_sides) is decoded
    assert cache.decoded(decoded) is decoded
    assert (decoded.name, decoded.classes, decoded.side) == ("mine", ("a", "b"), 8)


def test_sets_without_room_or_of_different_sizes_are_not_kept(equal_sides, sides_differ, tmp_path):
    one = 6 * 3 * 8 * 8 / 1e9
    assert PixelCache(0.9 * one).decoded(equal_sides) is equal_sides
    assert PixelCache(0).decoded(equal_sides) is equal_sides
    assert PixelCache(1.0).decoded(sides_differ) is sides_differ
    cache = PixelCache(1.5 * one)
    again = part_of(equal_sides, torch.arange(6), name="again")
    assert isinstance(cache.decoded(equal_sides), DecodedImages)
    assert cache.decoded(again) is again


def test_a_cache_of_less_than_nothing_is_refused():
    with pytest.raises(ValueError, match=r"at least 0 GB, for example 1\.0; got -1"):
        PixelCache(-1)


def test_sides(equal_sides, sides_differ, tmp_path):
    assert equal_sides.side == 8
    assert sides_differ.side is None
    assert files(tmp_path / "wide", [(8, 9), (8, 9)]).side is None


def test_a_part_reads_from_its_whole(sides_differ):
    part, rest = hold_out_count(sides_differ, 2, name="part")
    images = [(len(part), part), (len(rest), rest)]
    seen = []
    for count, some in images:
        for index in range(count):
            assert read_at_least(some, index, 4).equal(some.read(index))
            seen.append(where(some, index))
    assert sorted(seen) == sorted(sides_differ.where(i) for i in range(6))
    assert part.side is None
    assert rest.name == "part"
