"""Command lines of plain `key=value` words."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tasks.settings import unknown


def key_values(arguments: Sequence[str], keys: Collection[str], *, example: str) -> dict[str, str]:
    """What `key=value` arguments say, each key at most once.

    Raises:
        ValueError: in one line: a word that is no `key=value`, an unknown key with the nearest right one, or a key
            given twice.
    """
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not value:
            raise ValueError(f"cannot read '{argument}'; write key=value, for example {example}")
        if key not in keys:
            raise unknown("key", key, keys)
        if key in given:
            raise ValueError(f"{key}= is given twice: {given[key]} and {value}")
        given[key] = value
    return given
