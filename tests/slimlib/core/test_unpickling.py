"""Pickles of numbers are read; others run nothing."""

import io
import os
import pickle
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slimlib.core.allowed_arrays import ARRAYS, GENERATORS
from slimlib.core.unpickling import Refused, unpickle
from tests.tasks.classification.small_files import as_python2

BATCH = {
    b"data": np.arange(12, dtype=np.uint8).reshape(2, 6),
    b"labels": [3, 7],
    b"filenames": [b"a.png", b"\xff\x00.png"],
    "text": "ä",
    b"weights": np.linspace(0, 1, 3),
}


def read(content):
    return unpickle(content, ARRAYS, encoding="bytes")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_lists_and_names_of_every_protocol(protocol):
    same(read(pickle.dumps(BATCH, protocol)))


def test_pickles_of_python_2():
    data = as_python2(BATCH)
    assert b"numpy.core.multiarray" in data
    assert b"_codecs" not in data
    same(read(data))


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
    with pytest.raises(Refused, match=f"refers to '.*{function.__name__}'"):
        read(data)


def test_nothing_of_a_hostile_pickle_runs(tmp_path):
    made = tmp_path / "made"
    with pytest.raises(Refused):
        read(pickle.dumps([np.arange(3), Asks(os.mkdir, str(made))]))
    assert not made.exists()


EMPTY_TEXT = pickle.dumps(np.zeros(2, "S1")).replace(b"S1", b"S0").replace(b"NNNK\x01", b"NNNK\x00")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"c__builtin__\nbytearray\n(I9999999999\ntR.", "encodes something other than bytes"),
        (b"c_codecs\nencode\n(Vab\nVrot13\ntR.", "encodes something other than bytes"),
        (EMPTY_TEXT, "elements have no bytes"),
    ],
)  # fmt: skip
def test_what_would_take_memory_or_mean_something_else_is_refused(content, says):
    with pytest.raises(Refused, match=says):
        read(content)


def test_a_length_that_the_file_does_not_have_takes_no_memory():
    with pytest.raises(ValueError, match="expected 1099511627776 bytes in a bytearray8, but only 1 remain"):
        read(b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".")


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(BATCH)[:-20], b"\x80\x02]q\x00(K\x01u."])
def test_a_damaged_pickle_raises(content):
    with pytest.raises(Exception):  # noqa: B017  # a damaged pickle fails wherever it likes
        read(content)


WATCHED = ("open", "os.", "subprocess.", "import", "exec", "compile", "socket.", "ctypes.", "pickle.find_class")
happened: list[str] = []
watching = False


def watch(event: str, _: object) -> None:
    if watching and event.startswith(WATCHED):
        happened.append(event)


sys.addaudithook(watch)
KNOWN = [
    *(pickle.dumps(BATCH, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
    as_python2(BATCH),
    pickle.dumps(np.random.default_rng(0)),
    pickle.dumps([np.float32(3), {1, 2}, bytearray(b"abc"), (None, 2**70)], 4),
]
ASKING = [pickle.dumps([np.arange(2), Asks(f, "1")], p) for f in (os.mkdir, exec, getattr, np.load) for p in (0, 2, 5)]
HARMLESS = (dict, list, tuple, set, frozenset, bytes, bytearray, str, int, float, bool, type(None), complex)


@st.composite
def pickles(draw):
    """A pickle with some bytes replaced, taken out or put in, or the head of one before the tail of another."""
    content = bytearray(draw(st.sampled_from(KNOWN + ASKING)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(content)))
        new = draw(st.binary(max_size=3) | st.sampled_from([b"R", b"b", b"\x81", b"i", b"o", b"\x92", b"c", b"\x93"]))
        content[at : at + draw(st.integers(0, 3))] = new
    other = draw(st.sampled_from(KNOWN + ASKING))
    return bytes(content) + other[draw(st.integers(0, len(other))) :]


@given(pickles())
@settings(max_examples=300, deadline=None)
@example(b"\x80\x04" + b"cbuiltins\nset\n(cbuiltins\nrange\n(I9999999\ntRtR.")
def test_no_pickle_runs_anything_or_takes_more_than_it_brings(content):
    global watching
    tracemalloc.start()
    watching = True
    try:
        value = unpickle(content, ARRAYS | GENERATORS, encoding="bytes")
    except Exception:
        value = None
    finally:
        watching = False
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert not happened
    assert most < 1_000_000 + 100 * len(content)
    assert is_harmless(value)


def is_harmless(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(is_harmless, [*value, *value.values()]))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_harmless, value))
    named = {id(each) for each in (ARRAYS | GENERATORS).named.values()}
    numbers = np.ndarray | np.generic | np.dtype | np.random.Generator | np.random.PCG64
    return type(value) in HARMLESS or isinstance(value, numbers) or id(value) in named or "_Seed" in repr(type(value))


def test_what_the_fuzzing_watches_for_is_seen(tmp_path):
    """So the test above can fail."""
    global watching
    watching = True
    try:
        pickle.load(io.BytesIO(pickle.dumps(Asks(os.mkdir, str(tmp_path / "made")))))
    finally:
        watching = False
    assert "os.mkdir" in happened
    happened.clear()
