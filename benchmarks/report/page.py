"""The page: one HTML file that holds its scripts, styles, numbers and pictures, and may ask for nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from benchmarks.analysis.collecting import Collected
from benchmarks.analysis.figures import LINES, OTHER_COLOURS, WIDTH_COLOURS
from benchmarks.analysis.findings import finding
from benchmarks.analysis.results import Results
from benchmarks.papers.claims import HEAD, NOT_RUN, Claim, checked, read_claims, tables_of
from benchmarks.report.learned import learned
from benchmarks.report.learning import curves
from benchmarks.report.media import Album
from benchmarks.report.origins import Origins
from benchmarks.report.spectrum import Json, table

PARTS = Path(__file__).parent / "page"
SCRIPTS = ("tables.js", "figures.js", "pictures.js", "start.js")
TITLES = {
    "sr": "Super-resolution",
    "classification": "Classification",
    "detection": "Detection",
    "rl": "Reinforcement learning",
}
MOST_TABLES = 20
"""Of one folder, those with most records; what is left out is said."""

NO_MEDIA: Json = {"pictures": {}, "network": "", "hash": "", "left_out": []}


@dataclass(frozen=True)
class Shown:
    """A table of the page, and the pictures beside it."""

    id: str
    where: str
    finding: str
    caption: str
    origin: str
    settings: dict[str, Any]
    data: Json
    media: Json


@dataclass
class Folder:
    """A results folder as the page has it."""

    id: str
    below: str
    task: str
    name: str
    question: str
    tables: list[Shown]
    left_out: int


@dataclass
class Report:
    """Grows by one results folder after another; then `html` is the page.

    Attributes:
        claimed: folder below `results` -> its tables, of those that a claim is about; other records are not kept.
    """

    results: Path
    folders: list[Folder] = field(default_factory=list)
    origins: Origins = field(default_factory=Origins)
    album: Album = field(default_factory=Album)
    damaged: dict[Path, str] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=read_claims)
    claimed: dict[str, Sequence[Results]] = field(default_factory=dict)

    def add(self, collected: Collected) -> None:
        """Take in what the records of one folder say."""
        self.damaged.update(collected.damaged)
        if not collected.tables:
            return
        path = collected.folder.path
        below = path.relative_to(self.results).as_posix()
        task, ablation, *deeper = below.split("/")
        for one in collected.tables:
            self.origins.add(one.records)
        name = " · ".join([ablation, *deeper])
        if below in tables_of(self.claims):
            self.claimed[below] = collected.tables
        number = len(self.folders) + 1
        media = self.album.of(path)
        owner = _owner(collected.tables, media["hash"])
        tables = [
            self._shown(f"t{number}-{n}", one, media if n == owner else NO_MEDIA)
            for n, one in enumerate(collected.tables[:MOST_TABLES])
        ]
        left_out = max(0, len(collected.tables) - MOST_TABLES)
        question = collected.tables[0].first.question
        self.folders.append(Folder(f"f{number}", below, TITLES.get(task, task), name, question, tables, left_out))

    def _shown(self, identity: str, results: Results, media: Json) -> Shown:
        own, first = Origins(), results.first
        own.add(results.records)
        where = f"{first.dataset}, {first.steps:,} {first.step_unit}, scale {first.scale}"
        return Shown(
            id=identity,
            where=where,
            finding=finding(results),
            caption=results.caption(),
            origin=own.summary(),
            settings=first.settings,
            data=table(results) | {"curves": curves(results)},
            media=media,
        )

    def html(self, to: Path) -> bytes:
        """The page; links to files beside the records are relative to where it is written."""
        folder = to.resolve().parent
        environment = Environment(
            loader=FileSystemLoader(PARTS), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        environment.filters["json"] = _json
        environment.filters["link"] = lambda path: quote(os.path.relpath(path, folder))
        library, own = get_plotlyjs() if self.folders else "", "\n".join((PARTS / name).read_text() for name in SCRIPTS)
        page = environment.get_template("page.html").render(
            policy=_policy(library, own),
            style=Markup((PARTS / "page.css").read_text()),
            library=Markup(library),
            script=Markup(own),
            report=self,
            tasks=self._by_task(),
            learned=list(learned(self.results, self.album)),
            damaged=self._damaged(),
            overview=self._overview(),
            claims=self._claims(),
            palette=_palette(),
        )
        return page.encode("utf-8", "replace")

    @property
    def wrong(self) -> dict[Path, str]:
        """Every file that could not be read, and why."""
        return {**self.damaged, **self.album.damaged}

    def _by_task(self) -> dict[str, list[Folder]]:
        found: dict[str, list[Folder]] = {}
        for folder in self.folders:
            found.setdefault(folder.task, []).append(folder)
        return found

    def _damaged(self) -> Json:
        rows = [[_below(path, self.results), reason] for path, reason in sorted(self.wrong.items())]
        return {"title": "Files that could not be read", "head": ["file", "why"], "pinned": [], "rows": rows}

    def _claims(self) -> Json:
        """The papers' claims that records tell of, each leading to the first of its tables."""
        places = {folder.below: f"#{folder.id}" for folder in self.folders}
        found = [row for row in checked(self.claims, self.claimed, self.results / "perf") if row.confirmed != NOT_RUN]
        rows = [[row.claim, row.confirmed, row.seen, "; ".join(row.commands)] for row in found]
        links = [next((places[f] for f in row.commands.values() if f in places), "") for row in found]
        return {"title": "What the papers claim", "head": list(HEAD), "pinned": [], "rows": rows, "links": links}

    def _overview(self) -> Json:
        tables = [(folder, one) for folder in self.folders for one in folder.tables]
        rows = [
            [
                folder.name,
                folder.task,
                str(len(one.data["recipes"])),
                str(len(one.data["points"])),
                str(len(one.data["seeds"])),
                one.finding,
                one.where,
            ]
            for folder, one in tables
        ]
        head = ["ablation", "task", "recipes", "points", "seeds", "finding", "trained on"]
        links = [f"#{one.id}" for _, one in tables]
        return {"title": "All tables", "head": head, "pinned": [], "rows": rows, "links": links}


def _owner(tables: Sequence[Results], hash_: str) -> int:
    """Which table has the network that pictures are of; the first where none has."""
    shown = enumerate(tables[:MOST_TABLES])
    return next((n for n, one in shown if any(record.hash == hash_ for record in one.records)), 0)


def _policy(*scripts: str) -> str:
    """Allows these scripts by their hash, styles and pictures of the page itself, and no request at all."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    rest = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {hashes}; {rest}"


def _json(value: object) -> Markup:
    """JSON that no text in it can end: the page's parser sees no tag and no entity."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _palette() -> Json:
    stops = [WIDTH_COLOURS(n / 10) for n in range(11)]
    widths = [[round(255 * part) for part in stop[:3]] for stop in stops]
    return {"widths": widths, "lines": LINES, "others": OTHER_COLOURS}


def _below(path: Path, results: Path) -> str:
    return str(path.relative_to(results)) if path.is_relative_to(results) else str(path)
