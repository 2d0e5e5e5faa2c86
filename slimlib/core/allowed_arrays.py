"""What a pickle of numbers may hold: arrays, numbers and random generators of NumPy, and bytes.

What NumPy itself would read without checking, such as flags of a dtype that turn numbers into addresses of objects,
is read by functions of our own.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from slimlib.core.unpickling import Allowed, Refused, calls_instead, may_name

PLAIN = "biufcSU"
"""Kinds of a NumPy dtype: numbers, booleans and text; neither objects nor fields."""
DTYPE = re.compile(rf"[<>=|]?[{PLAIN}]\d{{1,9}}")
DTYPE_NAMES = [code for code in np.typecodes["All"] if np.dtype(code).kind in PLAIN]


def _dtype(code: str | bytes, align: bool = False, copy: bool = False) -> np.dtype[Any]:
    text = _text(code)
    if not isinstance(text, str) or not DTYPE.fullmatch(text):  # NumPy would evaluate others
        raise Refused(f"holds an array of {str(code)[:40]!r}, which are neither numbers nor text")
    return np.dtype(text)


def _text(value: Any) -> Any:
    """A string as Python 2 wrote it, read as bytes, is one all the same."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def _check_dtype(made: np.dtype[Any], state: Any) -> None:
    """Nothing is set: what is set in ordinary numbers is what they have."""
    if not isinstance(state, tuple) or tuple(map(_text, state)) != made.__reduce__()[2]:
        raise Refused(f"holds an array of {made} in another form than this machine's")


def _array(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    flat = np.frombuffer(*_numbers(content, dtype))
    return flat.reshape(shape, order=order) if axes is None else flat.reshape(shape).transpose(axes)


def _number(dtype: Any, content: Any) -> Any:
    return np.frombuffer(*_numbers(content, dtype))[0]


def _empty_array(*_: Any) -> np.ndarray:
    return np.empty(0, np.uint8)


def _fill_array(made: np.ndarray, state: Any) -> None:
    version, shape, dtype, in_fortran_order, content = state
    content, dtype = _numbers(content, dtype)
    made.__setstate__((version, shape, dtype, in_fortran_order, bytes(content)))


def _numbers(content: Any, dtype: Any) -> tuple[bytes | bytearray, np.dtype[Any]]:
    """Both, if they are what their names say: NumPy would also share the memory of other objects."""
    if not isinstance(content, bytes | bytearray) or not isinstance(dtype, np.dtype):
        raise Refused("holds an array that is not made of bytes")
    if not dtype.itemsize:
        raise Refused("holds an array whose elements have no bytes")
    return content, dtype


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or _text(encoding) not in ("latin1", "latin-1"):
        raise Refused("encodes something other than bytes")
    return text.encode("latin1")


def _bytearray(content: Any = b"", encoding: Any = "latin1") -> bytearray:
    return bytearray(content if isinstance(content, bytes) else _encoded(content, encoding))


def _bit_generator(kind: Any) -> np.random.PCG64:
    if kind is not np.random.PCG64 and kind != "PCG64":
        raise Refused("holds another random generator than the PCG64 of gymnasium")
    return np.random.PCG64(0)


def _generator(bits: Any, *_: Any) -> np.random.Generator:
    return np.random.Generator(bits if isinstance(bits, np.random.PCG64) else _bit_generator(bits))


def _fill_bits(made: Any, state: Any) -> None:
    made.state = state[0] if isinstance(state, tuple) else state


def _fill_generator(made: np.random.Generator, state: Any) -> None:
    _fill_bits(made.bit_generator, state)


class _Seed:
    """What a generator was seeded with; its state is what counts, and so this is left out."""


def _seed(*_: Any) -> _Seed:
    return _Seed()


def _leave_out(made: _Seed, state: Any) -> None:
    del made, state


CORES = ("numpy.core", "numpy._core")
"""The name before NumPy 2, and since."""
ARRAYS = (
    may_name(np.ndarray, *(np.dtype(code).type for code in DTYPE_NAMES))
    | calls_instead(
        {
            ("numpy", "dtype"): _dtype,
            ("_codecs", "encode"): _encoded,
            **{(builtins, "bytearray"): _bytearray for builtins in ("builtins", "__builtin__")},
            **{(f"{core}.numeric", "_frombuffer"): _array for core in CORES},
            **{(f"{core}.multiarray", "_reconstruct"): _empty_array for core in CORES},
            **{(f"{core}.multiarray", "scalar"): _number for core in CORES},
        }
    )
    | Allowed({}, filled_by={np.dtype: _check_dtype, np.ndarray: _fill_array})
)
GENERATORS = (
    may_name(np.random.PCG64)
    | calls_instead(
        {
            ("numpy.random._pickle", "__generator_ctor"): _generator,
            ("numpy.random._pickle", "__bit_generator_ctor"): _bit_generator,
            ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): _seed,
        }
    )
    | Allowed(
        {("numpy.random.bit_generator", "SeedSequence"): _Seed},
        filled_by={np.random.PCG64: _fill_bits, np.random.Generator: _fill_generator, _Seed: _leave_out},
    )
)
