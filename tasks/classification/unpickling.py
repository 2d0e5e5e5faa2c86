"""Reading a pickle of numbers and names, and nothing else: an ordinary unpickler runs whatever a file asks for."""

from __future__ import annotations

import io
import pickle
from typing import Any

_ARRAYS = {
    (module, name)
    for package in ("numpy.core", "numpy._core")  # the name before NumPy 2, and since
    for module, name in ((f"{package}.multiarray", "_reconstruct"), (f"{package}.numeric", "_frombuffer"))
}
_ADMITTED = _ARRAYS | {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how Python 3 writes bytes for Python 2
    ("__builtin__", "bytearray"),
    ("builtins", "bytearray"),
}


def load_numbers(data: bytes, place: str) -> Any:
    """What a pickle holds, if that is arrays, dicts, lists, numbers, bytes and strings.

    Args:
        data: the pickle; of Python 2 too, whose strings are returned as bytes.
        place: its file, for messages.

    Raises:
        ValueError: it asks for anything else, and none of that was run; or it is damaged.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except _Refused as refused:
        raise ValueError(
            f"{place} was refused: it asks for {refused}, which no array needs and which could run code. "
            "Download the file again from where it was published."
        ) from None
    except Exception as error:  # a damaged pickle shows as nearly any exception
        raise ValueError(f"{place} is damaged ({type(error).__name__}); download it again") from error


class _Refused(Exception):
    """A pickle asks for what is not admitted."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise _Refused(f"{module}.{name}")
        if (module, name) in _ARRAYS:
            module = module.replace("numpy.core", "numpy._core")
        return super().find_class(module, name)
