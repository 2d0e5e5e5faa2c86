"""Arguments such as `task.lr=0.1` and `seeds=[0,1]`, read as hydra reads them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from benchmarks.settings.choices import GROUPS


def parse(argument: str, texts: Mapping[str, bool]) -> Override:
    """What an argument says.

    Args:
        texts: the keys whose values are text, and whether it is a list of texts.

    Raises:
        ValueError: it cannot be read; text that has to stand in quotes is shown in them.
    """
    key, _, value = argument.partition("=")
    quoted = _in_quotes(key, value, several=texts[key]) if key in texts else ""
    try:
        override = OverridesParser.create().parse_override(_at_home(argument))
    except HydraException:
        shown = argument if len(argument) <= 80 else f"{argument[:80]}..."
        example = quoted or "write key=value, for example steps=100 or seeds=[0,1,2]"
        raise ValueError(f"cannot read '{shown}'; {example}") from None
    if override.is_sweep_override():
        example = quoted or f"one at a time, a list is written {override.key_or_group}=[...]"
        raise ValueError(f"'{argument}' is several runs; {example}")
    if override.is_delete():
        raise ValueError(f"'{argument}': keys cannot be removed")
    if override.key_or_group in GROUPS and key != override.key_or_group:
        raise ValueError(f"'{argument}': a choice is written {override.key_or_group}=<its name>")
    return override


def _at_home(argument: str) -> str:
    """~/pictures as a value: no shell expands it after a dotted key, and hydra cannot read it."""
    return re.sub(r"(?<=[=\[,])~(?=/)", lambda _: str(Path.home()), argument)


def _in_quotes(key: str, value: str, *, several: bool) -> str:
    """How text is written that holds what hydra reads as more than text."""
    parts = value.removeprefix("[").removesuffix("]").split(",")
    texts = [quoted(part.strip("\"' ")) for part in parts] if several else [quoted(value)]
    whole = f"{key}=[{','.join(texts)}]" if several else f"{key}={texts[0]}"
    return f"text with = # , [ and the like is written in quotes: {shlex.quote(whole)}"


def quoted(text: str) -> str:
    """In quotes, where hydra reads a backslash as one unless a quote follows."""
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text)
    return f'"{escaped}"'
