"""Ours beside the published, row by row: which records are comparable with a table, and which are not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from benchmarks.analysis.ablation import decimals, shown_name
from benchmarks.analysis.collecting import Collected
from benchmarks.analysis.results import Cell, Results, network_name
from benchmarks.papers.counting import NETWORK
from benchmarks.papers.published import Beside, Comparable, Printed, Published, Words
from benchmarks.settings.run import RunSettings, read_settings

PLACES = ("root", "eval_sets", "files", "widths")  # settings that differ from machine to machine, or between tables
UNTRAINED = "it needs no training"


@dataclass(frozen=True)
class Column:
    """Ours beside a table.

    Attributes:
        title: recipe, steps and scale.
        note: what else a reader must know of the numbers; "" where there are none.
        cells: row of the table -> what was measured.
        places: digits after the point.
        macs: row -> multiply-adds of our network.
    """

    title: str
    note: str
    cells: Mapping[int, Cell]
    places: int = 2
    macs: Mapping[int, float] = field(default_factory=dict)

    def text(self, row: int) -> str:
        """For reading; empty where nothing was measured."""
        return self.cells[row].text(self.places) if row in self.cells else ""

    def mean(self, rows: int) -> str:
        """The mean over the rows of the table; over a gap there is none, only how many cells are missing."""
        means = [self.cells[row].mean if row in self.cells else None for row in range(rows)]
        known = [mean for mean in means if mean is not None]
        if len(known) < rows:
            return f"({rows - len(known)} of {rows} missing)"
        return f"{sum(known) / rows:.{self.places}f}"


@cache
def composed(words: Words) -> RunSettings:
    """The settings of a run; its data need not be there.

    Raises:
        ValueError: it cannot be composed; the message names it and says why.
    """
    try:
        return read_settings(words)
    except ValueError as error:
        raise ValueError(f"the run '{' '.join(words)}' cannot be composed: {error}") from None


def comparable_columns(published: Published, name: str, collected: Sequence[Collected]) -> list[Column]:
    """Our columns beside a table; one that nobody has run is empty."""
    table = published.tables[name]
    merged: dict[tuple[str, str], Column] = {}
    ran: dict[str, bool] = {}
    for own in published.ours.get(name, ()):
        what = own.baseline or composed(own.run).recipes[0].name
        found = list(_columns_of(own, table, published.comparable[table.dataset], collected))
        ran[what] = ran.get(what, False) or bool(found)
        for column in found:
            merged[column.title, column.note] = _merged(merged.get((column.title, column.note), column), column)
    columns = [replace(column, title=f"ours: {column.title}") for column in merged.values()]
    return columns + [Column(f"ours: {what}", "", {}) for what, found_any in ran.items() if not found_any]


def _merged(first: Column, second: Column) -> Column:
    """Both in one; of a record that two ablations share, which is there twice, the first counts."""
    cells, macs = {**second.cells, **first.cells}, {**second.macs, **first.macs}
    return replace(first, cells=cells, macs=macs)


def _columns_of(own: Beside, table: Printed, needs: Comparable, collected: Sequence[Collected]) -> Iterator[Column]:
    """What of each of our tables belongs beside the rows that a run is about."""
    settings = composed(own.run)
    for results in (results for one in collected for results in one.tables if results.first.task == needs.task):
        rows = range(len(table.rows)) if own.rows is None else own.rows
        sets = {
            row: needs.eval_set.format(**table.row(row)) for row in rows if _measured_alike(results, needs, table, row)
        }
        places = _places(results, table.metric)
        if own.baseline is not None:
            scores = results.baselines.get(own.baseline, {})
            values = {row: scores.get(eval_set, {}).get(table.metric) for row, eval_set in sets.items()}
            cells = {row: Cell({0: value}, (0,)) for row, value in values.items() if value is not None}
            if cells:
                yield Column(own.baseline, UNTRAINED, cells, places)
            continue
        for recipe in _recipes_like(results, settings):
            of = {row: results.cell(recipe, table.point(row), eval_set, table.metric) for row, eval_set in sets.items()}
            cells = {row: cell for row, cell in of.items() if cell.values}
            if cells:
                macs = _macs(results, recipe, table, cells)
                yield Column(_title(results, recipe), _note(results, settings), cells, places, macs)


def _macs(results: Results, recipe: str, table: Printed, rows: Iterable[int]) -> dict[int, float]:
    costs = {row: results.cost(recipe, table.point(row)) for row in rows}
    return {row: cost.macs for row, cost in costs.items() if cost is not None}


def _measured_alike(results: Results, needs: Comparable, table: Printed, row: int) -> bool:
    first, values = results.first, table.row(row)
    return (
        first.protocol == needs.protocol.format(**values)
        and first.dataset.startswith(needs.dataset)
        and needs.eval_set.format(**values) in first.eval_sets
        and table.metric in [metric.name for metric in first.metrics]
    )


def _recipes_like(results: Results, settings: RunSettings) -> list[str]:
    """The recipes of a table that train the network of a run in the run's way, whatever their names."""
    network = {key: settings.deciding[key] for key in NETWORK[settings.task]}
    if any(results.first.settings.get(key) != value for key, value in network.items()):
        return []
    wanted = _plain(settings.recipes[0].settings())
    return [recipe for recipe in results.recipes if _plain(results.of(recipe)[0].training) == wanted]


def _plain(training: Mapping[str, object]) -> object:
    """What decides a recipe's numbers; which widths it is scored at does not."""
    return json.loads(json.dumps({key: value for key, value in training.items() if key != "spectrum"}))


def _title(results: Results, recipe: str) -> str:
    first = results.first
    return f"{recipe}, {first.steps:,} {first.step_unit} (scale {first.scale})"


def _note(results: Results, settings: RunSettings) -> str:
    """Data, seeds, protocol, and where the training differs from the published one."""
    first = results.first
    wanted = json.loads(json.dumps(settings.deciding)) | {"steps": settings.steps}
    differs = [
        f"{key}={value}"
        for key, value in {**first.settings, "steps": first.steps}.items()
        if key not in PLACES and wanted.get(key) != value
    ]
    unlike = f"; unlike the published recipe: {', '.join(differs)}" if differs else ""
    return f"{_trained(results)}. {first.protocol.rstrip('.')}{unlike}"


def _trained(results: Results) -> str:
    return f"{network_name(results.first.settings)}{results.first.dataset}; seeds {', '.join(map(str, results.seeds))}"


def _places(results: Results, metric: str) -> int:
    return next((decimals(info) for info in results.first.metrics if info.name == metric), 2)


def columns_apart(published: Published, name: str, collected: Sequence[Collected]) -> list[Column]:
    """What was run of the same ablation and widths on other data, or measured in another way."""
    table = published.tables[name]
    columns: list[Column] = []
    if "width" not in table.columns:
        return []
    for own in published.ours.get(name, ()):
        settings = composed(own.run)
        needs = published.comparable[table.dataset]
        for results in (results for one in collected for results in one.tables):
            alike = _measured_alike(results, needs, table, 0)  # it stands beside the table of its network
            if not alike and _of_ablation(results, settings) and settings.recipes[0].name in results.recipes:
                columns += _apart(results, settings.recipes[0].name, table)
    return columns


def _of_ablation(results: Results, settings: RunSettings) -> bool:
    first, found = results.first, settings.deciding.get("head")  # boxes, masks or keypoints of a detector
    return (first.task, first.ablation, first.settings.get("head")) == (settings.task, settings.ablation, found)


def _apart(results: Results, recipe: str, table: Printed) -> Iterator[Column]:
    metric = next((metric for metric in results.first.metrics if metric.name == table.metric), results.primary)
    eval_set = results.first.eval_sets[0]
    of = {row: results.cell(recipe, table.point(row), eval_set, metric.name) for row in range(len(table.rows))}
    cells = {row: cell for row, cell in of.items() if cell.values}
    if cells:
        unit = f" ({metric.unit})" if metric.unit else ""
        protocol = results.first.protocol.rstrip(".")
        note = f"{shown_name(metric)}{unit} on {eval_set}: {_trained(results)}. {protocol}"
        yield Column(_title(results, recipe), note, cells, decimals(metric), _macs(results, recipe, table, cells))


def table_of_run(settings: RunSettings, collected: Sequence[Collected]) -> Results | None:
    """The records of this very run, wherever its data lay; None where nobody has run it."""
    wanted = _everywhere(settings.deciding)
    for results in (results for one in collected for results in one.tables):
        first = results.first
        same = _of_ablation(results, settings) and (first.scale, first.steps) == (settings.scale, settings.steps)
        if same and _everywhere(first.settings) == wanted:
            return results
    return None


def _everywhere(settings: Mapping[str, object]) -> object:
    return json.loads(json.dumps({key: value for key, value in settings.items() if key not in PLACES}))
