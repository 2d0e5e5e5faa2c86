"""JSON read strictly: what is wrong is told with its line, also what is well-formed and still no plain data."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+', re.DOTALL)
Path = tuple[str | int | None, ...]


class WrongJson(ValueError):
    """What is wrong, and on which line.

    Attributes:
        place: `line 3, column 5`, or `line 3`.
    """

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(reason)
        self.place = place


def first_wrong(error: ValidationError) -> str:
    """The place of the first mistake, and what it is: `images.0.credit: Field required`."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}"


def parse(data: bytes) -> str:
    """The text, when it is JSON without doubled keys and without numbers that are not finite.

    Raises:
        WrongJson: it is not.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise WrongJson(f"line {line}", "this is no UTF-8 text") from None
    if not text.strip():
        raise WrongJson("line 1", "the file is empty")
    try:
        json.loads(text, parse_int=str)
        json.loads(text, object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite, parse_int=_finite)
    except json.JSONDecodeError as error:
        raise WrongJson(f"line {error.lineno}, column {error.colno}", error.msg) from None
    except RecursionError:
        raise WrongJson("line 1", "it is nested too deep") from None
    except _Doubled:
        raise _doubled(text) from None
    except _NotFinite as error:
        number = str(error)
        shown = number if len(number) < 20 else f"{number[:8]}..."
        raise WrongJson(f"line {_line_of_token(text, number)}", f"{shown} is not a finite number") from None
    return text


def line_of(text: str, path: Sequence[str | int]) -> int:
    """The line on which a key or list item stands; of one that is not there, that of what it should be in."""
    wanted, line, depth = tuple(path), 1, 0
    for found, number in _places(text):
        if depth < len(found) and found == wanted[: len(found)]:
            line, depth = number, len(found)
    return line


def _places(text: str) -> Iterator[tuple[Path, int]]:
    """The path of every key and list item of sound JSON, and its line."""
    path: list[str | int | None] = []  # of what is open: the key of an object (None before the first), or an index
    key_next = False
    line, before = 1, 0
    for token in TOKEN.finditer(text):
        mark = token[0]
        line, before = line + text.count("\n", before, token.start()), token.start()
        if mark in "]}":
            path.pop()
            key_next = False
        elif mark == ",":
            key_next = not isinstance(path[-1], int)
            if isinstance(path[-1], int):
                path[-1] += 1
        elif mark != ":":
            if key_next:
                path[-1], key_next = json.loads(mark), False
                yield tuple(path), line
                continue
            if path and isinstance(path[-1], int):
                yield tuple(path), line
            if mark in "[{":
                path.append(0 if mark == "[" else None)
                key_next = mark == "{"


class _Doubled(Exception):
    pass


class _NotFinite(Exception):
    pass


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    listed = list(pairs)
    unique = dict(listed)
    if len(unique) < len(listed):
        raise _Doubled
    return unique


def _finite(number: str) -> float:
    """Of whole numbers too: those that are beyond a float are beyond reason."""
    if not math.isfinite(float(number)):
        raise _NotFinite(number)
    return 0.0


def _doubled(text: str) -> WrongJson:
    before = set()
    for path, line in _places(text):
        if path in before:
            return WrongJson(f"line {line}", f"the key '{path[-1]}' occurs twice")
        before.add(path)
    raise AssertionError("json saw a doubled key")


def _line_of_token(text: str, wanted: str) -> int:
    start = next(token.start() for token in TOKEN.finditer(text) if token[0] == wanted)
    return text.count("\n", 0, start) + 1
