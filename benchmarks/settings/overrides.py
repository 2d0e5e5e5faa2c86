"""Arguments such as `task.lr=0.1` and `seeds=[0,1]`, read as hydra reads them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from benchmarks.settings.choices import GROUPS


def parse(argument: str, texts: Collection[str]) -> Override:
    """What an argument says.

    Args:
        texts: the keys whose values are text, or a list of texts.

    Raises:
        ValueError: it cannot be read; text that has to stand in quotes is shown in them.
    """
    key = argument.partition("=")[0]
    try:
        override = OverridesParser.create().parse_override(_at_home(argument))
    except HydraException:
        shown = argument if len(argument) <= 80 else f"{argument[:80]}..."
        example = "write key=value, for example steps=100 or seeds=[0,1,2]"
        raise ValueError(f"cannot read '{shown}'; {_in_quotes(argument) if key in texts else example}") from None
    if override.is_sweep_override():
        example = f"one at a time, a list is written {override.key_or_group}=[...]"
        raise ValueError(f"'{argument}' is several runs; {_in_quotes(argument) if key in texts else example}")
    if override.is_delete():
        raise ValueError(f"'{argument}': keys cannot be removed")
    if override.key_or_group in GROUPS and key != override.key_or_group:
        raise ValueError(f"'{argument}': a choice is written {override.key_or_group}=<its name>")
    return override


def _at_home(argument: str) -> str:
    """~/pictures as a value: no shell expands it after a dotted key, and hydra cannot read it."""
    return re.sub(r"(?<=[=\[,])~(?=/)", lambda _: str(Path.home()), argument)


def _in_quotes(argument: str) -> str:
    """How text is written that holds what hydra reads as more than text."""
    key, _, value = argument.partition("=")
    parts = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else [value]
    quoted = ",".join('"' + part.strip("\"' ").replace('"', '\\"') + '"' for part in parts)
    whole = f"{key}={quoted}" if parts == [value] else f"{key}=[{quoted}]"
    return f"text with = # , [ and the like is written in quotes: {shlex.quote(whole)}"
