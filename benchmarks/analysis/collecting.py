"""All that the records below one results folder say, as tables that mix no data sets, protocols or scales."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.analysis.results import ALIKE, Results
from benchmarks.records.folder import ResultsFolder, record_folders
from benchmarks.records.record import Record


@dataclass(frozen=True)
class Collected:
    """What the records of one folder say.

    Attributes:
        tables: as few as the records allow; the one with most records first, then the one with most steps.
        damaged: the files that hold no sound record, and why.
    """

    folder: ResultsFolder
    tables: list[Results]
    damaged: Mapping[Path, str]


def collect(results: Path, progress: Callable[[Path], None] = lambda _: None) -> Iterator[Collected]:
    """Every folder below `results` that has records, in the order of their paths.

    Args:
        progress: called with each file that has been read.
    """
    for place in sorted(record_folders(results)):
        folder = ResultsFolder(results / place)
        records, damaged = folder.read(progress)
        if records or damaged:
            yield Collected(folder, comparable(records), damaged)


def comparable(records: Iterable[Record]) -> list[Results]:
    """The records in tables: those that agree in `ALIKE`, and each recipe trained in one way.

    Of several records of one recipe, settings and seed (a copied file) the first counts.
    """
    groups: dict[str, dict[tuple[str, str, int], Record]] = {}
    for record in records:
        key = (record.recipe, record.hash, record.seed)
        groups.setdefault(_what_is_alike(record), {}).setdefault(key, record)
    parts = [part for group in groups.values() for part in _one_hash_a_recipe(group[key] for key in sorted(group))]
    return [Results(part) for part in sorted(parts, key=lambda part: (-len(part), -part[0].steps))]


def _what_is_alike(record: Record) -> str:
    plain = record.model_dump(include=set(ALIKE))
    return json.dumps(plain, sort_keys=True)


def _one_hash_a_recipe(records: Iterable[Record]) -> Iterator[list[Record]]:
    """A recipe's name may stand for other settings in a later run: the nth settings of each go into the nth part."""
    hashes: dict[str, list[str]] = {}
    parts: list[list[Record]] = []
    for record in records:
        known = hashes.setdefault(record.recipe, [])
        if record.hash not in known:
            known.append(record.hash)
        number = known.index(record.hash)
        while len(parts) <= number:
            parts.append([])
        parts[number].append(record)
    yield from parts
