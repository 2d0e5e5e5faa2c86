"""Performance records: one file for each thing measured on a network and class of machines, written whole."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.perf.measurement import Machine, Measurement
from benchmarks.perf.timing import Spread
from benchmarks.records.environment import commit, versions
from tasks.atomic import write_atomically


@dataclass(frozen=True)
class PerformanceRecord:
    """Measurements that were taken together, and where."""

    measurements: tuple[Measurement, ...]
    rounds: int
    machine: Machine
    origin: dict[str, Any]


def write(
    folder: Path, measurements: Sequence[Measurement], machine: Machine, *, rounds: int, whole: bool = True
) -> None:
    """Write one record for each network and thing measured, in the folder of this class of machines.

    Not `whole`: more rows may follow, so an older record that has rows which are not among these stays as it is.
    """
    origin = {"versions": versions(), "commit": commit()}
    place = folder / "records" / _as_name(f"{machine.device} {machine.processor} {machine.threads} {machine.torch}")
    for what, network in dict.fromkeys((m.what, m.network) for m in measurements):
        rows = [asdict(m) for m in measurements if (m.what, m.network) == (what, network)]
        content = {"measurements": rows, "rounds": rounds, "machine": asdict(machine), "origin": origin}
        path = place / f"{_as_name(f'{what} {network}')}.json"
        if whole or not _settings(path) - {row["setting"] for row in rows}:
            write_atomically(path, json.dumps(content, indent=1) + "\n")


def _settings(path: Path) -> set[str]:
    """The rows that a record has."""
    try:
        return {m.setting for m in _read(path).measurements} if path.exists() else set()
    except ValueError:  # what is damaged is measured again now
        return set()


def _as_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def read(folder: Path) -> list[PerformanceRecord]:
    """All sound records of a folder; a warning names each file that holds none."""
    found = []
    for path in sorted((folder / "records").rglob("*.json")):
        try:
            found.append(_read(path))
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)
    return found


def _read(path: Path) -> PerformanceRecord:
    try:
        content = json.loads(path.read_text())
        rows = [Measurement(**(row | {"value": Spread(**row["value"])})) for row in content["measurements"]]
        machine = Machine(**content["machine"])
        return PerformanceRecord(tuple(rows), content["rounds"], machine, content["origin"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a performance record ({error}), and left out; measure again") from error
