"""Records: the measured result of one recipe and seed, in one small file that is written once and whole."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from benchmarks.records.json_places import WrongJson, line_of, parse
from benchmarks.settings.identity import record_name, slug
from tasks.atomic import write_atomically


def _within_reason(value: float) -> float:
    if abs(value) > 1e100:  # its square, and so a deviation, may not be finite
        raise ValueError(f"{value:g} is beyond 1e100")
    return value


Number = Annotated[float, AfterValidator(_within_reason)]
Count = Annotated[int, Field(ge=0, le=10**18)]
Scores = dict[str, dict[str, Number]]
NUMBERS = re.compile(r"\[[\s\d.,eE+-]*\]")
LARGEST = 2**26
"""Bytes of a file; a record has some thousands."""
IN_PYDANTIC_S_WORDS = re.compile(r"Invalid JSON: (.*) at line (\d+) column (\d+)")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MetricInfo(_Strict):
    """As `tasks.task.Metric`."""

    name: str
    unit: str
    better: Literal["higher", "lower"]


class Row(_Strict):
    """What was measured at one width: multiply-adds, parameters, and set -> metric -> value.

    Attributes:
        samples: what a metric is the mean of, where that is told: the return of each episode.
        curve: [steps trained, value] of a metric in the course of the training.
    """

    width: float = Field(gt=0, le=1)
    macs: Count
    params: Count
    metrics: Scores
    samples: dict[str, dict[str, list[Number]]] = Field(default_factory=dict)
    curve: dict[str, dict[str, list[tuple[Number, Number]]]] = Field(default_factory=dict)


class Record(_Strict):
    """The result of one recipe and seed, and where it comes from. Tables are made of these alone.

    Attributes:
        position: of the recipe in its ablation.
        hash: of everything that decides the result but the seed.
        input: shape of the example that multiply-adds are counted for.
        training: the recipe's settings; `settings` are the task's.
    """

    format: Literal[1] = 1
    task: str
    ablation: str
    question: str
    recipe: str
    position: Count
    seed: int = Field(ge=0)
    hash: str = Field(pattern=r"^[\w+.=-]+$")
    scale: str
    data: str
    dataset: str
    protocol: str
    steps: Count
    step_unit: str = "steps"
    input: list[Count]
    metrics: list[MetricInfo] = Field(min_length=1)
    eval_sets: list[str] = Field(min_length=1)
    rows: list[Row] = Field(min_length=1)
    baselines: dict[str, Scores]
    training: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    host: str
    threads: int
    seconds: float = Field(ge=0)

    @field_validator("recipe")
    @classmethod
    def _has_a_name(cls, recipe: str) -> str:
        if not slug(recipe):
            raise ValueError("a recipe needs a name")
        return recipe

    @field_validator("rows")
    @classmethod
    def _each_width_once(cls, rows: list[Row]) -> list[Row]:
        if len({row.width for row in rows}) < len(rows):
            raise ValueError("a width stands there twice")
        return rows

    @property
    def file_name(self) -> str:
        """`<recipe>-<seed>-<hash>.json`."""
        return f"{record_name(self.recipe, self.seed, self.hash)}.json"

    @property
    def kind(self) -> str:
        """individual or slimmable."""
        return str(self.training.get("kind", "slimmable"))


def write_record(record: Record, folder: Path) -> Path:
    """Write a record into `folder`, whole or not at all.

    Raises:
        OSError: it cannot be written; all that was there before is intact.
    """
    path = folder / record.file_name
    write_atomically(path, _json(record))
    return path


def _json(record: Record) -> str:
    """Indented, but a list of numbers, of which a curve has hundreds, is on one line; what is empty is left out."""
    plain = record.model_dump()
    for row in plain["rows"]:
        for key in ("samples", "curve"):
            if not row[key]:
                del row[key]
    if plain["step_unit"] == "steps":
        del plain["step_unit"]
    text = json.dumps(plain, indent=1)
    return NUMBERS.sub(lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text) + "\n"


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        ValueError: it is damaged; names the file, the line and what is wrong, in one line.
    """
    try:
        text = parse(_content(path))
    except WrongJson as error:
        raise ValueError(f"{path.name}, {error.place}: {error}") from None
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from None
    try:
        return Record.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(f"{path.name}, {_first_of(error, text)}") from None


def _content(path: Path) -> bytes:
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for
        raise OSError(0, "this is no file")
    if about.st_size > LARGEST:
        raise OSError(0, f"{about.st_size:,} bytes are too many for a record")
    return path.read_bytes()


def _first_of(error: ValidationError, text: str) -> str:
    first = error.errors(include_url=False)[0]
    malformed = IN_PYDANTIC_S_WORDS.fullmatch(first["msg"])
    if malformed is not None:  # what json lets pass: half of a surrogate pair, nesting of hundreds
        return f"line {malformed[2]}, column {malformed[3]}: {malformed[1]}"
    place = ".".join(str(part) for part in first["loc"])
    says = first["msg"].removeprefix("Value error, ")
    return f"line {line_of(text, first['loc'])}: {place + ': ' if place else ''}{says}"


def read_records(
    folder: Path, told: Callable[[Path], None] = lambda _: None
) -> tuple[list[Record], Mapping[Path, str]]:
    """All sound records of a folder, in the order of their file names, and what is wrong with the others.

    Of several files that hold the same recipe, settings and seed one counts, that with the record's own name if
    it is there; the others are told as copies. `told` hears of each file as it has been read.
    """
    read, damaged = {}, {}
    for path in sorted(folder.glob("*.json")):
        try:
            read[path] = read_record(path)
        except ValueError as error:
            damaged[path] = str(error)
        told(path)
    counts: dict[tuple[str, str, int], Path] = {}
    for path in sorted(read, key=lambda path: path.name != read[path].file_name):
        record = read[path]
        first = counts.setdefault((record.recipe, record.hash, record.seed), path)
        if first is not path:
            damaged[path] = f"{path.name}: a copy of {first.name}; delete one of them"
    return [read[path] for path in sorted(counts.values())], damaged
