"""What the papers claim, and what our records say to it: how far one recipe is ahead of another, with its spread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from statistics import stdev
from typing import Annotated

import yaml

from benchmarks.analysis.ablation import decimals, shown_name
from benchmarks.analysis.aggregates import LEAST_SEEDS
from benchmarks.analysis.collecting import Collected
from benchmarks.analysis.grid import markdown_table
from benchmarks.analysis.results import SPREAD_SEEDS, Cell, Results, Summary, joint_spread, summary_of
from benchmarks.papers.published import as_command
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.records import read
from benchmarks.settings.choices import CONF
from tasks.points import name_of_width
from tasks.settings import Lax, Settings, setting

CLAIMS = CONF / "claims.yaml"
HEAD = ("claim", "confirmed", "what we see", "command")
NOT_RUN = "not run"
Points = Annotated[tuple[str | float, ...], Lax]


class Compared(Settings):
    """Two recipes of one table, at some of its operating points."""

    where: str = setting(..., "the data, for readers", min_length=1)
    table: str = setting(..., "folder of the records, below that of all results", min_length=1)
    recipe: str = setting(..., "that the claim is about", min_length=1)
    beats: str = setting("", "a recipe that it is claimed to be better than, by more than the seeds' spread")
    equals: str = setting("", "a recipe that it is claimed to be as good as")
    within: float = setting(0.0, "how far it may be behind what it equals, in the unit of the metric", ge=0)
    at: Points = setting(..., "operating points: widths, or names as records have them", min_length=1)
    task: Mapping[str, str | int | float] = setting({}, "settings of the task: the folder may hold tables of others")


class Timed(Settings):
    """Rows of the performance table that have a bound."""

    where: str = setting(..., "the network", min_length=1)
    timed: str = setting(..., "what was measured", min_length=1)
    row: str = setting(..., "of which row", min_length=1)
    most: float | None = setting(None, "value that it is claimed to be below")
    least: float | None = setting(None, "value that it is claimed to be above")
    part: str = setting(..., "of benchmarks.perf that measures it", min_length=1)


class Claim(Settings):
    """What papers claim, and where it can be seen."""

    claim: str = setting(..., "in a few words", min_length=1)
    seen: Annotated[tuple[Compared | Timed, ...], Lax] = setting(..., "in which records", min_length=1)
    note: str = setting("", "what a reader should know, and why we disagree")


@dataclass(frozen=True)
class Row:
    """A claim with what was found.

    Attributes:
        confirmed: yes, no, partly, or `NOT_RUN`; with what little it rests on.
        seen: what was found, with its unit and spread.
        commands: that make the records -> the folder of these, below all results.
    """

    claim: str
    confirmed: str
    seen: str
    commands: Mapping[str, str]


def read_claims(path: Path = CLAIMS) -> list[Claim]:
    """The claims of a file.

    Raises:
        ValueError: a claim has a key that does not exist, or an impossible value.
    """
    claims = []
    for given in yaml.safe_load(path.read_text(encoding="utf-8")):
        seen = tuple(Timed(**one) if "timed" in one else Compared(**one) for one in given.get("seen", ()))
        claims.append(Claim(**{**given, "seen": seen}))
    return claims


def checked(claims: Iterable[Claim], tables: Mapping[str, Sequence[Results]], timings: Path) -> list[Row]:
    """Each claim beside what is recorded.

    Args:
        tables: folder below all results -> its tables; of those that a claim may be about the first counts.
        timings: the folder of `benchmarks.perf`.
    """
    measured = [m for record in read(timings) for m in record.measurements]
    return [_row(claim, tables, measured) for claim in claims]


def tables_of(claims: Iterable[Claim]) -> set[str]:
    """The folders that they are about, below all results."""
    return {one.table for claim in claims for one in claim.seen if isinstance(one, Compared)}


def by_folder(collected: Iterable[Collected], results: Path) -> dict[str, list[Results]]:
    """Folder below `results` -> its tables."""
    return {one.folder.path.relative_to(results).as_posix(): one.tables for one in collected}


def claims_table(rows: Iterable[Row], results: str) -> str:
    """In Markdown; `results` leads from where it stands to the folder of all results."""
    shown = [[row.claim, row.confirmed, row.seen, "; ".join(_links(row, results))] for row in rows]
    return markdown_table(HEAD, shown, words=4)


def _links(row: Row, results: str) -> Iterator[str]:
    for command, folder in row.commands.items():
        yield f"[`{command.removeprefix('python -m benchmarks.')}`]({results}/{folder}/table.md)"


def _row(claim: Claim, tables: Mapping[str, Sequence[Results]], measured: Sequence[Measurement]) -> Row:
    texts, verdicts = [], []
    for one in claim.seen:
        text, holds = _compared(one, tables) if isinstance(one, Compared) else _timed(one, measured)
        texts.append(f"{one.where}: {text or NOT_RUN}")
        verdicts += holds
    held = [holds for holds, _ in verdicts]
    confirmed = NOT_RUN if not held else "yes" if all(held) else "partly" if any(held) else "no"
    if held and not any(known for _, known in verdicts):
        confirmed += ", one seed"
    seen = "; ".join(texts) + (f". {claim.note}" if claim.note else "")
    return Row(claim.claim, confirmed, seen, dict(_made_by(one) for one in claim.seen))


def _compared(one: Compared, tables: Mapping[str, Sequence[Results]]) -> tuple[str, list[tuple[bool, bool]]]:
    """By how much the recipe is ahead at each point; whether that is as claimed, and its spread known."""
    known = tables.get(one.table, ())
    results = next((table for table in known if one.task.items() <= table.first.settings.items()), None)
    if results is None:
        return "", []
    metric, dataset, both = results.primary, results.first.eval_sets[0], (one.recipe, one.beats or one.equals)
    texts, verdicts, fewest = [], [], SPREAD_SEEDS
    for point in (at if isinstance(at, str) else name_of_width(at) for at in one.at):
        cells = [results.cell(name, point, dataset, metric.name).values for name in both]
        seeds = tuple(sorted(set.intersection(*map(set, cells))))
        alike = [Cell({seed: values[seed] for seed in seeds}, seeds) for values in cells]
        iqm = results.by_iqm(metric.name) and len(seeds) >= LEAST_SEEDS
        own, other = (summary_of(cell, iqm=iqm) for cell in alike)
        if own is None or other is None:
            continue
        lead = _lead(own, other, metric.better)
        spread = joint_spread(own, other) if iqm else _spread(cells)
        verdicts.append((lead > spread if one.beats else lead >= -one.within, spread > 0))
        places, fewest = decimals(metric), min(fewest, len(seeds))
        shown = f"{round(lead, places) + 0.0:+.{places}f}" + (f" ± {spread:.{places}f}" if spread else "")
        texts.append(f"{shown} at {results.label(point).removeprefix('width ')}")
    unit = {"%": "points"}.get(metric.unit, metric.unit) or shown_name(metric)
    few = {1: ", one seed", 2: ", two seeds"}.get(fewest, "")
    return ", ".join(texts) and f"{', '.join(texts)} ({unit}{few})", verdicts


def _spread(cells: Iterable[Mapping[int, float]]) -> float:
    """The joint standard deviation of two recipes over all their seeds; 0: neither has two.

    One that has a single seed is taken to spread as the other does.
    """
    known = [stdev(values.values()) for values in cells if len(values) > 1]
    return hypot(*known, *known[: 2 - len(known)])


def _lead(own: Summary, other: Summary, better: str) -> float:
    return own.middle - other.middle if better == "higher" else other.middle - own.middle


def _timed(one: Timed, measured: Iterable[Measurement]) -> tuple[str, list[tuple[bool, bool]]]:
    found = next((m for m in measured if m.subject == (one.timed, one.where, one.row)), None)
    if found is None:
        return "", []
    value = found.value.median
    holds = (one.most is None or value <= one.most) and (one.least is None or value >= one.least)
    return f"{value:.{0 if value >= 10 else 1}f} {found.unit} at {one.row}", [(holds, True)]


def _made_by(one: Compared | Timed) -> tuple[str, str]:
    """The command that makes the records, and their folder."""
    if isinstance(one, Timed):
        return f"python -m benchmarks.perf {one.part}", "perf"
    task, ablation, scale, *data = one.table.split("/")
    words = [f"task={task}", f"ablation={ablation}", f"scale={scale}", *(f"data={name}" for name in data)]
    words += [f"task.{key}={value}" for key, value in one.task.items()]
    return as_command(words), one.table
