"""What `benchmarks.features` has found and drawn, as the page shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.records.json_places import first_wrong
from benchmarks.report.media import Album
from benchmarks.report.spectrum import Json

INDEX = "features.json"


class Drawn(BaseModel):
    """A figure: its file, what it shows, and how to read it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: str
    finding: str
    note: str


class Learned(BaseModel):
    """What `features.json` says: the finding, how it was measured, and the figures."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    finding: str
    caption: str
    figures: list[Drawn]


def learned(results: Path, album: Album) -> Iterator[Json]:
    """Of every task, scale and data that have been looked at; unreadable files are told as the album's damaged ones."""
    for path in sorted(results.glob(f"*/features/**/{INDEX}")):
        try:
            said = Learned.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            why = first_wrong(error) if isinstance(error, ValidationError) else str(error)
            album.damaged[path] = f"{path.name}: {why}"
            continue
        left_out: list[Json] = []
        drawn = [(one, album.source(path.parent / Path(one.file).name, left_out)) for one in said.figures]
        yield {
            "where": " · ".join(path.parent.relative_to(results).parts),
            "finding": said.finding,
            "caption": said.caption,
            "figures": [{**dict(one), "source": source} for one, source in drawn if source is not None],
            "left_out": left_out,
        }
