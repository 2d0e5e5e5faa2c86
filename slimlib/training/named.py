"""Rules, losses and teachers by the names that settings files use, each made with its own parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

Made = TypeVar("Made")


def make(
    what: str,
    table: Mapping[str, Callable[..., Made]],
    name: object,
    given: Mapping[str, Any],
    *,
    elsewhere: Mapping[str, Any] | None = None,
) -> Made:
    """What `table` makes under a name.

    Args:
        what: it is, for messages, for example "teacher".
        given: its own parameters.
        elsewhere: what it may take besides, and does not come from the settings; what it does not take is left out.

    Raises:
        ValueError: a name or parameter does not exist, with the nearest right one; or what it refuses itself.
    """
    if not isinstance(name, str) or name not in table:
        raise unknown(what, name, table)
    if not isinstance(given, Mapping):
        raise ValueError(f"the parameters of {what} '{name}' must be keys and values; got {given!r}")
    others = elsewhere or {}
    own = parameters_of(table[name], without=others)
    for key in given:
        if key not in own:
            raise unknown(f"parameter of {what} '{name}':", key, own)
    checked = {key: _of_kind(f"{key}={value!r} of {what} '{name}'", value, own[key]) for key, value in given.items()}
    taken = inspect.signature(table[name]).parameters
    return table[name](**{key: value for key, value in others.items() if key in taken}, **checked)


def _of_kind(what: str, value: Any, default: Any) -> Any:
    """The value, which must be of the kind that the default is of, where there is one."""
    kinds = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a list"}
    kind = type(default)
    if kind is tuple and isinstance(value, list):
        return tuple(value)
    if kind is float and type(value) is int:
        return float(value)
    if kind in kinds and type(value) is not kind:
        raise ValueError(f"{what} must be {kinds[kind]}")
    return value


def parameters_of(made_by: Callable[..., Any], *, without: Collection[str] = ()) -> dict[str, Any]:
    """The parameters of a class or function, and their defaults; `inspect.Parameter.empty` where there is none."""
    parameters = inspect.signature(made_by).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name: p.default for p in named if p.name not in without}


def unknown(what: str, given: object, allowed: Iterable[object]) -> ValueError:
    """The error for a name that does not exist: `unknown rule 'sandwitch'; did you mean 'sandwich'? (there are: ...`"""
    names = [str(name) for name in allowed]
    close = get_close_matches(str(given), names, n=1, cutoff=0.5)
    all_of_them = f"there are: {', '.join(names)}" if names else "there are none"
    return ValueError(
        f"unknown {what} '{given}'; " + (f"did you mean '{close[0]}'? ({all_of_them})" if close else all_of_them)
    )


def constant(value: Made) -> Callable[[], Made]:
    """What makes a thing without parameters."""
    return lambda: value
