"""Records: the measured result of one recipe and seed, in one small file that is written once and whole."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.identity import slug
from tasks.atomic import write_atomically

Scores = dict[str, dict[str, float]]
NUMBERS = re.compile(r"\[[\s\d.,eE+-]*\]")


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
    macs: int = Field(ge=0)
    params: int = Field(ge=0)
    metrics: Scores
    samples: dict[str, dict[str, list[float]]] = Field(default_factory=dict)
    curve: dict[str, dict[str, list[tuple[float, float]]]] = Field(default_factory=dict)


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
    position: int
    seed: int
    hash: str
    scale: str
    data: str
    dataset: str
    protocol: str
    steps: int
    step_unit: str = "steps"
    input: list[int]
    metrics: list[MetricInfo]
    eval_sets: list[str]
    rows: list[Row]
    baselines: dict[str, Scores]
    training: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    host: str
    threads: int
    seconds: float

    @property
    def file_name(self) -> str:
        """`<recipe>-<seed>-<hash>.json`."""
        return f"{slug(self.recipe)}-{self.seed}-{self.hash}.json"

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
        ValueError: it is damaged; names the file and what is wrong, in one line.
    """
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path.name}: {place + ': ' if place else ''}{first['msg']}") from None
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from None


def read_records(folder: Path) -> tuple[list[Record], Mapping[Path, str]]:
    """All sound records of a folder, in the order of their file names, and what is wrong with the others."""
    records, damaged = [], {}
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(read_record(path))
        except ValueError as error:
            damaged[path] = str(error)
    return records, damaged
