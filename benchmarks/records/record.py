"""Records: the measured result of one recipe and seed, in one small file that is written once and whole."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from benchmarks.records.json_places import WrongJson, first_wrong, line_of, parse
from benchmarks.settings.identity import record_name, slug
from tasks.atomic import write_atomically
from tasks.points import Kind, name_of_width


def _within_reason(value: float) -> float:
    if abs(value) > 1e100:  # its square, and so a deviation, may not be finite
        raise ValueError(f"{value:g} is beyond 1e100")
    return value


Number = Annotated[float, AfterValidator(_within_reason)]
Count = Annotated[int, Field(ge=0, le=10**18)]
Cost = Annotated[float, Field(ge=0, le=1e18)]
Moment = Annotated[list[Number], Field(min_length=2, max_length=2)]
Share = Annotated[float, Field(ge=0, le=1)]
HAS = {"width": "a width", "plan": "channels, and no width", "per-input": "no width of its own"}
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
    """What was measured at one operating point.

    Attributes:
        point: its name; a width is named by its number.
        width: what it is, where it is one; channels: of each group of layers, what a plan is.
        macs: multiply-adds of an input, on average; params: of the parameters in use.
        milliseconds: of an input, where it was timed.
        shares: name of a width -> share of the inputs that ran at it, where each has a width of its own.
        at_batch: size of a batch -> milliseconds of an input in it, where it was timed.
        metrics: set -> metric -> value.
        samples: what a metric is the mean of, where that is known: the return of each episode.
        curve: [steps trained, value] of a metric in the course of the training.
        found: how a plan was found: `held_out_loss`, and `evaluations`, the plans that the search has scored.
    """

    point: str
    kind: Kind
    width: float | None = Field(default=None, gt=0, le=1)
    channels: list[Count] | None = Field(default=None, min_length=1)
    macs: Cost
    params: Count
    milliseconds: Cost | None = None
    shares: dict[str, Share] = Field(default_factory=dict)
    at_batch: dict[str, Cost] = Field(default_factory=dict)
    metrics: dict[str, dict[str, Number]]
    samples: dict[str, dict[str, list[Number]]] = Field(default_factory=dict)
    curve: dict[str, dict[str, list[Moment]]] = Field(default_factory=dict)
    found: dict[str, Number] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _width_without_a_name(cls, row: Any) -> Any:
        """Rows of older records are widths, and have no other name."""
        if isinstance(row, dict) and "point" not in row and isinstance(row.get("width"), float | int):
            return {"point": name_of_width(row["width"]), "kind": "width", **row}
        return row

    @model_validator(mode="after")
    def _is_what_it_says(self) -> Row:
        if (self.kind == "width") != (self.width is not None) or (self.kind == "plan" and not self.channels):
            raise ValueError(f"an operating point of kind {self.kind} has {HAS[self.kind]}")
        if self.width is not None and self.point != name_of_width(self.width):
            raise ValueError(f"width {self.width} is named {name_of_width(self.width)}, not '{self.point}'")
        if self.width is None and not (self.point.isprintable() and re.search("[^\\W\\d]", self.point)):
            raise ValueError(f"the name of a {self.kind} is a line with a letter in it, unlike {self.point!r}")
        if self.shares and self.kind != "per-input":
            raise ValueError(f"an operating point of kind {self.kind} has no shares: all inputs run alike")
        return self


class Record(_Strict):
    """The result of one recipe and seed, and where it comes from. Tables are made of these alone.

    Attributes:
        position: of the recipe in its ablation.
        hash: of everything that decides the result but the seed.
        input: shape of the example that multiply-adds are counted for.
        training: the recipe's settings; `settings` are the task's.
        seconds: that it took, with those before it was stopped and resumed. A network that another run had trained and
            kept took none.
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
    baselines: dict[str, dict[str, dict[str, Number]]]
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
            raise ValueError("a recipe's name needs a letter or a digit")
        return recipe

    @field_validator("rows")
    @classmethod
    def _each_point_once(cls, rows: list[Row]) -> list[Row]:
        if len({row.point for row in rows}) < len(rows):
            raise ValueError("an operating point occurs twice")
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
        for key in ("width", "channels", "milliseconds", "shares", "at_batch", "samples", "curve", "found"):
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
    return f"line {line_of(text, first['loc'])}: {first_wrong(error)}"


def read_records(
    folder: Path, progress: Callable[[Path], None] = lambda _: None
) -> tuple[list[Record], Mapping[Path, str]]:
    """All sound records of a folder, in the order of their file names, and what is wrong with the others.

    Of several files that hold the same recipe, settings and seed one counts, that with the record's own name if
    it is there; the others are listed as copies. `progress` is called with each file that has been read.
    """
    read, damaged = {}, {}
    for path in sorted(folder.glob("*.json")):
        try:
            read[path] = read_record(path)
        except ValueError as error:
            damaged[path] = str(error)
        progress(path)
    counts: dict[tuple[str, str, int], Path] = {}
    for path in sorted(read, key=lambda path: path.name != read[path].file_name):
        record = read[path]
        first = counts.setdefault((record.recipe, record.hash, record.seed), path)
        if first is not path:
            damaged[path] = f"{path.name}: a copy of {first.name}; delete one of them"
    return [read[path] for path in sorted(counts.values())], damaged
