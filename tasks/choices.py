"""Checks of settings: an unknown name or value is refused, with the nearest right one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from tasks.settings import unknown


def check_choice(what: str, given: object, allowed: Iterable[object]) -> None:
    """Raise ValueError, with the nearest right one, unless `given` is one of `allowed`."""
    options = list(allowed)
    if given not in options:
        raise unknown(what, given, options)


def check_keys(what: str, given: Mapping[str, Any], settings: type) -> None:
    """Raise ValueError unless `given` has only keys of the dataclass `settings`, and all it must have."""
    known = {field.name: field for field in fields(settings)}
    for key in given:
        if key not in known:
            raise unknown(f"key of {what}", key, known)
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{what} needs a value for '{name}'")


def check_whole(what: str, given: object, *, at_least: int) -> None:
    """Raise ValueError unless `given` is a whole number, not below `at_least`."""
    if isinstance(given, bool) or not isinstance(given, int) or given < at_least:
        raise ValueError(f"{what} must be a whole number, at least {at_least}; got {given!r}")


def check_number(what: str, given: object, allowed: Callable[[float], bool], expected: str) -> None:
    """Raise ValueError unless `given` is a number that is allowed; `expected` says which are."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not allowed(given):
        raise ValueError(f"{what}={given!r} must be {expected}")


def check_text(what: str, given: object) -> None:
    """Raise ValueError unless `given` is text."""
    if not isinstance(given, str):
        raise ValueError(f"{what}={given!r} must be text, such as a name or a place")


def as_tuple(what: str, given: object) -> tuple[object, ...]:
    """A list of settings as a tuple.

    Raises:
        ValueError: it is no list.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"{what}={given!r} must be a list, for example [{given}]")
    return tuple(given)
