"""The papers' tables as they were printed, and what of ours stands beside them; read from results/published."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from benchmarks.records.json_places import first_wrong
from slimlib.search.budgets import read_budget
from tasks.points import name_of_width
from tasks.settings import unknown
from tasks.training.choosing import point_within

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"
Words = tuple[str, ...]
Value = str | float | int | list[int] | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Kind = TypeVar("Kind", bound=_Strict)


class Printed(_Strict):
    """One table of a paper.

    Attributes:
        source: key of the paper; `table`: where in it.
        full_width: what the full network is called in the column `width`.
        rows: a value a column; None where nothing was printed.
    """

    source: str
    table: str
    model: str | None = None
    full_width: float = Field(default=1.0, gt=0)
    dataset: str
    metric: str
    unit: Literal["percent", "dB", "times"]
    columns: list[str]
    rows: list[list[Value]] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_rows(self) -> Printed:
        if self.metric not in self.columns:
            raise ValueError(f"metric '{self.metric}' is none of the columns {', '.join(self.columns)}")
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"row {number} has {len(row)} values for {len(self.columns)} columns")
            if not isinstance(row[self.columns.index(self.metric)], int | float):
                raise ValueError(f"row {number} has no number for '{self.metric}'")
        return self

    def row(self, number: int) -> dict[str, Value]:
        """Column -> value."""
        return dict(zip(self.columns, self.rows[number], strict=True))

    def value(self, number: int) -> float:
        """What was printed of the metric."""
        return float(self.row(number)[self.metric])  # type: ignore[arg-type]

    def width(self, number: int) -> float:
        """The width of a row as ours are counted: 1.0 is the full network; rows without one are full networks."""
        return float(self.row(number).get("width", self.full_width)) / self.full_width  # type: ignore[arg-type]

    def point(self, number: int) -> str:
        """The operating point of a row, as records name it: its width, or the budget of its plan."""
        row = self.row(number)
        if "plan" in row:
            return point_within(read_budget(f"{row['macs_published']} macs"))
        return name_of_width(self.width(number))


class Comparable(_Strict):
    """What a record says that was measured on a table's data set and in its way.

    Attributes:
        dataset: how the record's own begins; `{...}` stands for a column of the row, here and below.
    """

    task: str
    dataset: str
    eval_set: str
    protocol: str


class Beside(_Strict):
    """A run that gives a column beside a table.

    Attributes:
        run: the arguments of `python -m benchmarks.run`.
        rows: which it is about; None: all.
        baseline: what of its records is meant, where it is no recipe.
    """

    run: Words
    rows: tuple[int, ...] | None = None
    baseline: str | None = None

    @field_validator("run", mode="before")
    @classmethod
    def _flat(cls, given: Any) -> Any:
        return flat(given)


class Ablation(_Strict):
    """What a paper asks, and the runs that answer it; or why there are none."""

    source: str
    what: str
    runs: tuple[Words, ...] = ()
    missing: str = ""

    @field_validator("runs", mode="before")
    @classmethod
    def _flat(cls, given: Any) -> Any:
        return tuple(flat(run) for run in given)

    @model_validator(mode="after")
    def _check_either(self) -> Ablation:
        if bool(self.runs) == bool(self.missing):
            raise ValueError("needs either runs, or missing: why there are none")
        return self


@dataclass(frozen=True)
class Published:
    """All of it.

    Attributes:
        sources: key -> citation.
        tables: name -> what was printed; `ours`: name -> the runs beside it.
        comparable: data set of a table -> what a comparable record says.
    """

    sources: Mapping[str, str]
    tables: Mapping[str, Printed]
    ours: Mapping[str, Sequence[Beside]]
    comparable: Mapping[str, Comparable]
    ablations: Sequence[Ablation]


def read_published(folder: Path = PUBLISHED) -> Published:
    """Read tables.yaml and ours.yaml of a folder.

    Raises:
        ValueError: one of them is not as it should be; names the file, the table and what is wrong.
    """
    printed, beside = _yaml(folder / "tables.yaml"), _yaml(folder / "ours.yaml")
    sources = {str(key): str(text) for key, text in (printed.get("sources") or {}).items()}
    where = folder / "tables.yaml"
    tables = {n: _checked(Printed, t, f"{where}, table {n}") for n, t in _mapping(printed, "tables", where)}
    where = folder / "ours.yaml"
    ours = {}
    for name, runs in _mapping(beside, "tables", where):
        _check(f"{where}: ", "table", name, tables)
        ours[name] = [_checked(Beside, run, f"{where}, table {name}") for run in runs or []]
        for own in ours[name]:
            _check_rows(own, tables[name], f"{where}, table {name}")
    comparable = {
        n: _checked(Comparable, c, f"{where}, data set {n}") for n, c in _mapping(beside, "comparable", where)
    }
    ablations = [_checked(Ablation, a, f"{where}, ablation {i}") for i, a in enumerate(beside.get("ablations") or [])]
    for name, table in tables.items():
        _check(f"{folder / 'tables.yaml'}, table {name}: ", "source", table.source, sources)
        if name in ours:
            _check(f"{where}, table {name}: ", "data set", table.dataset, comparable)
    for ablation in ablations:
        _check(f"{where}, ablation '{ablation.what}': ", "source", ablation.source, sources)
    return Published(sources, tables, ours, comparable, ablations)


def flat(given: Any) -> Words:
    """The words of lists within lists, in order."""
    return tuple(_words(given)) if isinstance(given, list | tuple) else (str(given),)


def _words(given: Sequence[Any]) -> Iterator[str]:
    for item in given:
        if isinstance(item, list | tuple):
            yield from _words(item)
        else:
            yield str(item)


def as_command(words: Sequence[str]) -> str:
    """A run as a line for the shell."""
    return f"python -m benchmarks.run {shlex.join(words)}"


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold sources, tables and so on, as keys with values")
    return content


def _mapping(content: Mapping[str, Any], key: str, where: Path) -> Sequence[tuple[str, Any]]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{where} needs '{key}', a value for each name")
    return [(str(name), given) for name, given in value.items()]


def _checked(kind: type[Kind], given: object, where: str) -> Kind:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise ValueError(f"{where}: {first_wrong(error)}") from None


def _check(where: str, what: str, given: str, allowed: Mapping[str, object]) -> None:
    if given not in allowed:
        raise ValueError(f"{where}{unknown(what, given, allowed)}")


def _check_rows(own: Beside, table: Printed, where: str) -> None:
    for number in own.rows or ():
        if not 0 <= number < len(table.rows):
            raise ValueError(f"{where}: there is no row {number}; it has 0 to {len(table.rows) - 1}")
