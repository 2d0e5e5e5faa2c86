"""Performance records: one file for each thing measured on a network, written whole."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.perf.measurement import Measurement
from benchmarks.perf.timing import Spread
from benchmarks.records.environment import commit, host_class, versions
from tasks.atomic import write_atomically


@dataclass(frozen=True)
class PerformanceRecord:
    """Measurements that were taken together, and where."""

    measurements: tuple[Measurement, ...]
    rounds: int
    origin: dict[str, Any]


def origin() -> dict[str, Any]:
    """Where the numbers come from."""
    return {"versions": versions(), "commit": commit(), "host": host_class("cpu")}


def write(folder: Path, measurements: Sequence[Measurement], *, rounds: int) -> None:
    """Write one record for each network and thing measured."""
    for what, network in dict.fromkeys((m.what, m.network) for m in measurements):
        rows = [asdict(m) for m in measurements if (m.what, m.network) == (what, network)]
        content = {"measurements": rows, "rounds": rounds, "origin": origin()}
        name = re.sub(r"[^a-z0-9]+", "-", f"{what} {network}".lower())
        write_atomically(folder / "records" / f"{name}.json", json.dumps(content, indent=1) + "\n")


def read(folder: Path) -> list[PerformanceRecord]:
    """All records of a folder.

    Raises:
        ValueError: one of them cannot be read; the message names it.
    """
    records = []
    for path in sorted((folder / "records").glob("*.json")):
        try:
            content = json.loads(path.read_text())
            rows = [Measurement(**(row | {"value": Spread(**row["value"])})) for row in content.pop("measurements")]
            records.append(PerformanceRecord(tuple(rows), **content))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is not a performance record ({error}); delete it to measure again") from error
    return records
