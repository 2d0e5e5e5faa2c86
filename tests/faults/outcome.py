"""What a run left behind, to be compared with what an undisturbed one leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.records.record import read_records

TABLES = ("table.csv", "table.md", "table.tex", "figure.png", "figure.svg")
OTHERS = ("lock", "tensorboard", "tracking")  # of what is in cache/: locks, and what trackers write


def records_below(results: Path) -> dict[str, dict[str, Any]]:
    """Place -> record, without the seconds it took, and the commit, which may be made meanwhile."""
    found = {}
    for folder in sorted(path for path in results.rglob("records") if path.is_dir()):
        records, damaged = read_records(folder)
        assert not damaged
        for record in records:
            place = (folder / record.file_name).relative_to(results).as_posix()
            found[place] = record.model_dump(exclude={"seconds", "commit"})
    return found


def tables_below(results: Path) -> dict[str, bytes]:
    """Place -> content of every table and figure."""
    return {name: (results / name).read_bytes() for name in files_below(results) if Path(name).name in TABLES}


def files_below(results: Path) -> list[str]:
    """The place of every file that has to do with a result."""
    files = [path.relative_to(results).as_posix() for path in results.rglob("*") if not path.is_dir()]
    return sorted(file for file in files if not file.rpartition("/cache/")[2].startswith(OTHERS))


def differences(results: Path, expected: Path) -> list[str]:
    """In what the two results folders differ; nothing else than time may."""
    found = []
    for what in (files_below, records_below, tables_below):
        one, other = what(results), what(expected)
        if one != other:
            names = set(one) ^ set(other) or [name for name in one if one[name] != other[name]]  # type: ignore[call-overload]
            found.append(f"{what.__name__}: {sorted(names)}")
    return found
