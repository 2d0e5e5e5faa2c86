"""Every table and figure of the ablations again, from the records below a results folder alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.analysis.collecting import Collected
from benchmarks.analysis.results import Results
from benchmarks.records.folder import FolderInUse, ResultsFolder
from benchmarks.running.command import one_line
from benchmarks.tables.writing import write_tables

OTHER = "other"
"""Where the tables of a folder go that must not be mixed with its first."""


@dataclass
class Rebuilt:
    """What was written, and what could not be.

    Attributes:
        failed: a line for each folder that could not be written; `in_use`: for each that a run works in.
    """

    tables: int = 0
    failed: list[str] = field(default_factory=list)
    in_use: list[str] = field(default_factory=list)


def rebuild(collected: Sequence[Collected], console: Console) -> Rebuilt:
    """Write the tables and figures of every folder.

    The first table of a folder goes where a run puts it, the others to `other/2/`, `other/3/`, ... in it.
    """
    done = Rebuilt()
    shown = track(collected, "tables and figures", console=console, transient=True, disable=not console.is_terminal)
    for one in shown:
        if not one.tables:
            continue
        try:
            with one.folder.locked():
                _write(one, console)
        except FolderInUse as error:
            done.in_use.append(str(error))
        except OSError as error:
            done.failed.append(f"{one.folder.path} cannot be written: {one_line(error)}")
        except Exception as error:  # records that are sound one by one, and no table: the other folders have theirs
            what = f"{type(error).__name__}: {one_line(error)}"
            done.failed.append(f"{one.folder.path} has no table: {what}; look at its records")
        else:
            done.tables += len(one.tables)
    return done


def _write(one: Collected, console: Console) -> None:
    first, *others = one.tables
    write_tables(first.records, one.folder)
    for number, table in enumerate(others, start=2):
        place = one.folder.path / OTHER / str(number)
        write_tables(table.records, ResultsFolder(place))
        why = f"{place}: {_differs(first, table)}, kept apart from {one.folder.path}"
        console.print(why, markup=False, highlight=False, soft_wrap=True)


def _differs(first: Results, table: Results) -> str:
    """In a few words, what keeps two tables of one folder apart."""
    for what in ("scale", "dataset", "protocol", "steps"):
        if getattr(first.first, what) != getattr(table.first, what):
            return f"other {what} ({getattr(table.first, what)})"
    keys = sorted({*first.first.settings, *table.first.settings})
    unlike = [key for key in keys if first.first.settings.get(key) != table.first.settings.get(key)]
    return f"other settings ({', '.join(unlike)})" if unlike else "recipes of the same names, trained in another way"


def damaged(collected: Sequence[Collected]) -> list[tuple[Path, str]]:
    """Every file that holds no sound record, and why."""
    return [(path, reason) for one in collected for path, reason in one.damaged.items()]
