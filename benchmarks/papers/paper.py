"""The tables of one paper, ours beside them: for people (Markdown, LaTeX, the screen) and for programs (CSV)."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from benchmarks.analysis.ablation import grid_of_points, grids
from benchmarks.analysis.collecting import Collected
from benchmarks.analysis.findings import finding
from benchmarks.analysis.grid import Grid, escaped, latex, markdown
from benchmarks.analysis.results import network_name
from benchmarks.papers.beside import UNTRAINED, Column, columns_apart, comparable_columns, composed, table_of_run
from benchmarks.papers.cost import estimate, explained
from benchmarks.papers.published import Ablation, Printed, Published, Value, as_command
from benchmarks.papers.rates import Rates
from benchmarks.settings.run import RunSettings
from tasks.points import name_of_width

UNITS = {"percent": "%", "dB": "dB", "times": "times"}
HEADS = {
    "top1_error": "top-1 error (%), printed",
    "top1_accuracy": "top-1 accuracy (%), printed",
    "top5_accuracy": "top-5 accuracy (%), printed",
    "psnr": "PSNR (dB), printed",
    "box_ap": "box AP (%), printed",
    "mask_ap": "mask AP (%), printed",
    "keypoint_ap": "keypoint AP (%), printed",
    "speed_up": "speed-up (times), printed",
    "macs_published": "multiply-adds, printed",
    "macs_exact": "multiply-adds, counted",
}
LAYERS_SHOWN = 3
COLUMNS = (
    "table", "row", "width", "whose", "comparable", "metric", "unit", "value", "values", "seeds", "macs_printed",
    "macs_counted", "measured_on",
)  # fmt: skip
HOW_TO_READ = (
    "Printed: as the authors have it. Ours: measured by this repository; a column stands beside the printed one only "
    "where network, data set, protocol, recipe and width are the same, and says how long it was trained. What nobody "
    "has run is empty. A mean over rows is taken only where none is missing."
)
APART = "Not comparable: the same ablation and widths here, on other data"


@dataclass(frozen=True)
class Section:
    """One printed table.

    Attributes:
        beside: what is comparable with it; `apart`: what is not.
    """

    name: str
    printed: Printed
    beside: Sequence[Column]
    apart: Sequence[Column]

    @property
    def title(self) -> str:
        """Network, metric and data set."""
        metric = HEADS[self.printed.metric].partition(",")[0]
        return f"{self.printed.model + ': ' if self.printed.model else ''}{metric} on {self.printed.dataset}"

    def grid(self) -> Grid:
        """The printed table, and ours in further columns."""
        columns = self.printed.columns
        head = [HEADS.get(column, column) for column in columns] + [c.title for c in self.beside]
        rows = [
            [*(shown(value) for value in values), *(column.text(row) for column in self.beside)]
            for row, values in enumerate(self.printed.rows)
        ]
        widths = [self.printed.width(row) for row in range(len(rows))] if "width" in columns else []
        if widths and len(set(widths)) == len(widths):
            rows.append(self._means())
        return Grid(f"Printed in: {self.printed.table}", head, rows)

    def _means(self) -> list[str]:
        """Over the widths, in the digits that were printed."""
        values = [self.printed.value(row) for row in range(len(self.printed.rows))]
        places = max(len(str(value).partition(".")[2]) for value in values)
        mean = f"{sum(values) / len(values):.{places}f}"
        named = ["mean", *self.printed.columns[1:]]
        printed = [mean if name == self.printed.metric else name if name == "mean" else "" for name in named]
        return [*printed, *(column.mean(len(values)) for column in self.beside)]

    def grid_apart(self) -> Grid | None:
        """What is not comparable, in the rows that it has."""
        rows = sorted({row for column in self.apart for row in column.cells})
        if not rows:
            return None
        head = ["width", *(column.title for column in self.apart)]
        return Grid(APART, head, [[self.printed.point(r), *(c.text(r) for c in self.apart)] for r in rows])

    def notes(self, columns: Sequence[Column]) -> list[str]:
        """What a reader must know of each column."""
        return [f"{column.title}: {column.note}." for column in columns if column.note]


def sections(published: Published, source: str, collected: Sequence[Collected]) -> list[Section]:
    """The printed tables of a paper, in their order."""
    return [
        Section(name, table, _beside(published, name, collected), columns_apart(published, name, collected))
        for name, table in published.tables.items()
        if table.source == source
    ]


def _beside(published: Published, name: str, collected: Sequence[Collected]) -> list[Column]:
    source = published.tables[name].source
    ran = any(ablation.runs for ablation in published.ablations if ablation.source == source)
    words = "none at these settings; see the runs below" if ran else "not implemented here"
    return comparable_columns(published, name, collected) or [Column(f"ours: {words}", "", {})]


def shown(value: Value) -> str:
    """A printed value; the channels of a network by its first layers and its last."""
    if isinstance(value, list):
        return f"{'-'.join(map(str, value[:LAYERS_SHOWN]))}-…-{value[-1]} ({len(value)} layers)"
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}"
    return "" if value is None else str(value)


def paper_md(
    published: Published, source: str, found: Sequence[Section], collected: Sequence[Collected], rates: Rates, at: Path
) -> str:
    """The page of a paper; `at`: the folder that it lies in, for its links."""
    parts = [f"# {published.sources[source]}: printed, and ours", HOW_TO_READ]
    for section in found:
        parts += [f"## {section.title}", markdown(section.grid()), _bullets(section.notes(section.beside))]
        apart = section.grid_apart()
        if apart is not None:
            parts += [markdown(apart), _bullets(section.notes(section.apart))]
    parts += ["## What it asks, and the commands that answer it here", explained(rates)]
    for ablation in published.ablations:
        if ablation.source == source:
            parts += [f"### {ablation.what}", *_answer(ablation, collected, rates, at)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _answer(ablation: Ablation, collected: Sequence[Collected], rates: Rates, at: Path) -> Iterator[str]:
    if ablation.missing:
        yield f"{ablation.missing[0].upper()}{ablation.missing[1:]}."
        return
    for run in ablation.runs:
        settings = composed(run)
        ours = table_of_run(settings, collected)
        yield f"```bash\n{as_command(run)}\n```"
        yield f"Estimated: {estimate(settings, rates)}."
        yield markdown(empty_grid(settings) if ours is None else grids(ours)[0])
    wanted = {(composed(run).task, composed(run).ablation) for run in ablation.runs}
    links = links_to([one for one in collected if _is_of(one, wanted)], at)
    if links:
        yield "\n".join(["Run of it here so far, each on data and at a scale of its own:", "", _bullets(links)])


def _is_of(one: Collected, wanted: Container[tuple[str, str]]) -> bool:
    return bool(one.tables) and (one.tables[0].first.task, one.tables[0].first.ablation) in wanted


def empty_grid(settings: RunSettings) -> Grid:
    """The table of a run that nobody has made."""
    task = SimpleNamespace(**settings.task_settings)
    widths = sorted({width for r in settings.recipes if r.budgets is None for width in r.evaluated(task)})
    plans = dict.fromkeys(name for recipe in settings.recipes for name in reversed(recipe.points_within()))
    points = [*map(name_of_width, widths), *plans]
    title = f"{network_name(settings.task_settings)}{settings.data}, {settings.steps:,} steps: no record yet"
    what = "operating point" if plans else "width"
    return grid_of_points(title, what, points, [[recipe.name, *[""] * len(points)] for recipe in settings.recipes])


def links_to(collected: Sequence[Collected], at: Path) -> list[str]:
    """A line for each folder: its table, data, scale and finding; `at`: the folder of the page."""
    lines = []
    for one in collected:
        first, where = one.tables[0].first, Path(os.path.relpath(one.folder.path, at)).as_posix()
        about = f"task={first.task} ablation={first.ablation}, {first.dataset}, scale {first.scale}"
        lines.append(f"[{about}]({where}/table.md): {finding(one.tables[0])}.")
    return lines


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def paper_tex(published: Published, source: str, found: Sequence[Section]) -> str:
    """LaTeX (needs booktabs): a table for each printed one, with what is comparable."""
    lines = ["% made from records; do not edit"]
    for section in found:
        notes = " ".join(section.notes(section.beside))
        caption = f"{section.title}. Printed: {published.sources[source]}. {HOW_TO_READ} {notes}".rstrip()
        lines += ["\\begin{table}", "\\centering", f"\\caption{{{escaped(caption)}}}"]
        lines += [*latex(section.grid()), "\\end{table}", ""]
    return "\n".join(lines)


def paper_csv(found: Sequence[Section]) -> str:
    """A line a number: the printed ones, those of ours that are comparable, and those that are not."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for section in found:
        for row in range(len(section.printed.rows)):
            writer.writerows(_lines(section, row))
    return buffer.getvalue()


def _lines(section: Section, row: int) -> Iterator[list[object]]:
    printed, values = section.printed, section.printed.row(row)
    label = " ".join(_in_full(value) for column, value in values.items() if column not in HEADS and column != "width")
    start = [section.name, label, printed.width(row) if "width" in values else ""]
    unit, costs = UNITS[printed.unit], [values.get("macs_published") or "", values.get("macs_exact") or ""]
    yield [*start, "printed", "", printed.metric, unit, printed.value(row), "", "", *costs, printed.dataset]
    for column in section.beside:
        yield [*start, column.title, "yes", printed.metric, unit, *_numbers(column, row), *costs, column.note]
    for column in section.apart:
        yield [*start, column.title, "no", printed.metric, unit, *_numbers(column, row), "", "", column.note]


def _numbers(column: Column, row: int) -> list[object]:
    """Mean, values and seeds; a mean is empty where a seed is missing, and so are all where nothing was measured."""
    if row not in column.cells:
        return ["", "", ""]
    cell = column.cells[row]
    seeds = sorted(cell.values)
    named = "" if column.note == UNTRAINED else ";".join(map(str, seeds))
    return ["" if cell.mean is None else cell.mean, ";".join(repr(cell.values[seed]) for seed in seeds), named]


def _in_full(value: Value) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
