"""Pickles of numbers are read; others run nothing."""

import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tasks.classification.unpickling import load_numbers
from tests.tasks.classification.small_files import as_python2

BATCH = {
    b"data": np.arange(12, dtype=np.uint8).reshape(2, 6),
    b"labels": [3, 7],
    b"filenames": [b"a.png", b"\xff\x00.png"],
    "text": "ä",
    b"weights": np.linspace(0, 1, 3),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_lists_and_names_of_every_protocol(protocol):
    same(load_numbers(pickle.dumps(BATCH, protocol), "here"))


def test_pickles_of_python_2():
    data = as_python2(BATCH)
    assert b"numpy.core.multiarray" in data
    assert b"_codecs" not in data
    same(load_numbers(data, "here"))


def same(loaded):
    assert loaded.keys() == BATCH.keys()
    assert np.array_equal(loaded[b"data"], BATCH[b"data"])
    assert loaded[b"data"].dtype == np.uint8
    assert np.array_equal(loaded[b"weights"], BATCH[b"weights"])
    assert [loaded[key] for key in (b"labels", b"filenames", "text")] == [
        BATCH[key] for key in (b"labels", b"filenames", "text")
    ]


class Asks:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    "function", [os.system, eval, exec, getattr, partial, np.load, np.frombuffer, Path, pickle.loads, __import__]
)
def test_a_hostile_pickle_is_refused_by_name(function, protocol):
    data = pickle.dumps({b"labels": [1], b"data": Asks(function, "1")}, protocol)
    with pytest.raises(ValueError, match=r"batch 1 was refused: it asks for .*could run code") as error:
        load_numbers(data, "batch 1")
    assert "\n" not in str(error.value)


def test_nothing_of_a_hostile_pickle_runs(tmp_path):
    made = tmp_path / "made"
    with pytest.raises(ValueError, match="refused"):
        load_numbers(pickle.dumps([np.arange(3), Asks(os.mkdir, str(made))]), "batch 1")
    assert not made.exists()


@pytest.mark.parametrize(
    "data", [b"", b"no pickle", pickle.dumps(BATCH)[:-20], b"\x80\x04P1\n.", b"\x80\x02]q\x00(K\x01u."]
)
def test_a_damaged_pickle_is_named(data):
    with pytest.raises(ValueError, match=r"batch 1 is damaged .*; download it again"):
        load_numbers(data, "batch 1")
