"""Merge records from several machines: `python -m benchmarks.merge from=their/results,others/results`.

from=<folder>[,<folder>...]   results folders that runs have written to; nothing in them is changed
to=results                    the folder that their records are copied into; its tables are then made again

Of several records of the same recipe, settings and seed one counts, whatever the order of the folders:
- where they measured the same, only one is kept;
- else first a commit without local changes counts, then the newer slimlib, then the newer torch, then, never by
  what was measured, the larger SHA-256 of the record. The others are kept beside it as <name>.json.duplicate-<digest>,
  which no table reads.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks.analysis.collecting import collect
from benchmarks.records.folder import ResultsFolder, record_folders
from benchmarks.records.record import Record, read_record
from benchmarks.running.command import DONE, FAILED, IN_USE, command, complain, key_values, say
from benchmarks.tables.rebuilding import rebuild
from tasks.atomic import write_atomically

ORIGIN = {"position", "question", "versions", "commit", "host", "threads", "seconds"}
"""What of a record is not measured: where it comes from, and how its ablation shows it."""
ASIDE = ".duplicate-"


@dataclass(frozen=True)
class Found:
    """A record, and the file that it is in."""

    path: Path
    record: Record


@dataclass
class Merged:
    """What became of the records."""

    new: int = 0
    known: int = 0
    several: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Merge what the command line says; returns the exit code, as `benchmarks.running.command` has them."""
    rest = "what was merged is whole, the same command merges the rest"
    return command(arguments, __doc__, read_arguments, _merge, interrupted=rest)


def read_arguments(arguments: Sequence[str]) -> tuple[list[Path], Path]:
    """The folders to merge from, and the one to merge into.

    Raises:
        ValueError: in one line: an unknown key, or a folder that is not there, has no records, or lies in the other.
    """
    example = "from=their/results"
    given = key_values(arguments, ("from", "to"), example=example)
    if "from" not in given:
        raise ValueError(f"say where the records are, for example {example}")
    sources = [Path(place).expanduser() for place in given["from"].split(",") if place]
    target = Path(given.get("to", "results")).expanduser()
    for source in sources:
        if not source.is_dir():
            raise ValueError(f"from={source} is not a folder; name one that python -m benchmarks.run has written to")
        ours, theirs = target.resolve(), source.resolve()
        if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
            raise ValueError(f"from={source} and to={target} are the same folder, or one lies in the other")
        if not any(record_folders(source)):
            raise ValueError(f"from={source} has no <task>/<ablation>/<scale>/records; name the folder above the tasks")
    return sources, target


def merge(sources: Sequence[Path], target: Path) -> Merged:
    """Copy the records of some results folders into another; whole, one by one, so that a killed merge can go on.

    Raises:
        FolderInUse: a run works in a folder of the target.
        OSError: a file cannot be written.
    """
    merged = Merged()
    for place in sorted({place for source in sources for place in record_folders(source)}):
        folder = ResultsFolder(target / place)
        with folder.locked():
            incoming = [found for source in sources for found in _read(source, place, merged.damaged)]
            names = {found.record.file_name for found in incoming}
            there = [found for found in _read(target, place, merged.damaged) if found.record.file_name in names]
            for name in sorted(names):
                ours, theirs = ([f for f in some if f.record.file_name == name] for some in (there, incoming))
                _settle(folder.records / name, ours, theirs, merged)
    return merged


def choose(records: Iterable[Found]) -> list[Found]:
    """One record of each measurement; the first is the one that counts. The order they come in does not matter."""
    best: dict[str, Found] = {}
    for found in records:
        same = best.setdefault(_canonical(found.record, ORIGIN), found)
        if _rank(found.record) > _rank(same.record):
            best[_canonical(found.record, ORIGIN)] = found
    return sorted(best.values(), key=lambda found: _rank(found.record), reverse=True)


def _rank(record: Record) -> tuple[bool, list[int], list[int], str]:
    clean = record.commit is not None and not record.commit.endswith("-dirty")
    return clean, _numbers(record.versions, "slimlib"), _numbers(record.versions, "torch"), digest(record)


def _numbers(versions: Mapping[str, str], name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", versions.get(name, ""))[:3]]


def digest(record: Record) -> str:
    """SHA-256 of all that a record says."""
    return hashlib.sha256(_canonical(record, set()).encode()).hexdigest()


def _canonical(record: Record, without: set[str]) -> str:
    return json.dumps(record.model_dump(exclude=without), sort_keys=True)


def _read(results: Path, place: Path, damaged: list[str]) -> list[Found]:
    """All records of a folder, those that were kept aside too."""
    folder = results / place / "records"
    read = []
    for path in sorted([*folder.glob("*.json"), *folder.glob(f"*.json{ASIDE}*")]):
        try:
            record = read_record(path)
        except ValueError as error:
            damaged.append(f"{folder}: {error}")
            continue
        says = (record.task, record.ablation, record.scale, record.data)
        if says[: len(place.parts)] == place.parts:
            read.append(Found(path, record))
        else:
            damaged.append(f"{path}: it says that it is of {'/'.join(says)}")
    return read


def _settle(path: Path, there: Sequence[Found], incoming: Sequence[Found], merged: Merged) -> None:
    """Let the right record be at `path`, and the others aside. At each moment all that was there is somewhere there."""
    first, *others = choose([*there, *incoming])
    aside = {path.with_name(f"{path.name}{ASIDE}{digest(o.record)[:12]}"): o for o in others}
    for place, other in aside.items():
        if not place.exists():
            write_atomically(place, other.path.read_bytes())
    if path.exists() and not any(found.path == path for found in there):
        path.replace(path.with_name(path.name + ".corrupt"))
    if not any(found.path == path and found.record == first.record for found in there):
        write_atomically(path, first.path.read_bytes())
    for found in there:
        if found.path != path and found.path not in aside:
            found.path.unlink()
    if there:
        merged.known += 1
    else:
        merged.new += 1
    if aside:
        what = f"{path.parent.parent}: {first.record.recipe}, seed {first.record.seed}: {len(aside) + 1} measurements"
        merged.several.append(f"{what}; {_origin(first.record)} counts, kept aside: {', '.join(p.name for p in aside)}")


def _origin(record: Record) -> str:
    return f"that of commit {record.commit or 'unknown'} on {record.host}"


def _merge(given: tuple[list[Path], Path]) -> int:
    sources, target = given
    console = Console()
    merged = merge(sources, target)
    for line in merged.several:
        say(console, line)
    if merged.several:
        order = "a clean commit, the newer slimlib, the newer torch, the larger SHA-256"
        say(console, f"Of different measurements counts: {order}.")
    touched = {target / place for source in sources for place in record_folders(source)}
    rebuilt = rebuild([one for one in collect(target) if one.folder.path in touched], console)
    done = f"{merged.new} records are new in {target}, {merged.known} were there"
    say(console, f"{done}; {rebuilt.tables} tables made again")
    wrong = [f"damaged record, left out: {why}" for why in dict.fromkeys(merged.damaged)] + rebuilt.failed
    complain([*wrong, *rebuilt.in_use])
    return IN_USE if rebuilt.in_use else FAILED if wrong else DONE


if __name__ == "__main__":
    sys.exit(main())
