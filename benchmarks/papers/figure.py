"""The figure of a paper: what was printed over multiply-adds, and ours in panels that cannot be taken for it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.analysis.figures import (
    LOGARITHMIC,
    MARKERS,
    STYLE,
    axis_unit,
    image_files,
    line_style,
    make_logarithmic,
)
from benchmarks.papers.beside import Column
from benchmarks.papers.paper import HEADS, Section
from benchmarks.papers.published import Printed

SIZES = {"k": 1e3, "M": 1e6, "G": 1e9}
Line = list[tuple[float, float]]


def paper_figure(found: Sequence[Section]) -> dict[str, bytes]:
    """The figure as {"png": .., "svg": ..}; empty where no table has multiply-adds for each of its rows."""
    drawable = [section for section in found if line_of(section.printed)]
    drawable = [section for section in drawable if section.printed.metric == drawable[0].printed.metric]
    if not drawable:
        return {}
    by_note = _by_note(column for section in drawable for column in section.apart)
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(1.6 + 4.2 * (1 + len(by_note)), 4.4), layout="constrained")
        first, *others = drawn.subplots(1, 1 + len(by_note), squeeze=False)[0]
        _printed_panel(first, drawable)
        for panel, (note, columns) in zip(others, by_note.items(), strict=True):
            _apart_panel(panel, note, columns)
        ours = "; the other panels are ours, and not comparable" if others else ""
        drawn.suptitle(f"As printed by the authors{ours}", fontsize=10)
        return image_files(drawn)


def _by_note(columns: Iterable[Column]) -> dict[str, list[Column]]:
    """Of the columns that can be drawn, each once, and of equal ones that with most points; {note: columns}."""
    most: dict[tuple[str, str], Column] = {}
    for column in columns:
        known = most.get((column.note, column.title))
        if _ours(column) and (known is None or len(_ours(column)) > len(_ours(known))):
            most[column.note, column.title] = column
    by_note: dict[str, list[Column]] = {}
    for (note, _), column in most.items():
        by_note.setdefault(note, []).append(column)
    return by_note


def line_of(printed: Printed) -> Line:
    """(multiply-adds, metric) of each row; empty where a row has none."""
    points = []
    for number in range(len(printed.rows)):
        row = printed.row(number)
        macs = row.get("macs_exact") or _in_full(row.get("macs_published"))
        if not isinstance(macs, int | float):
            return []
        points.append((float(macs), printed.value(number)))
    return sorted(points)


def _in_full(text: object) -> float | None:
    """569M -> 569,000,000."""
    found = re.fullmatch(r"([\d.]+)([kMG])", str(text))
    return float(found[1]) * SIZES[found[2]] if found else None


def _ours(column: Column) -> Line:
    """(multiply-adds, mean) where no seed is missing."""
    means = {row: cell.mean for row, cell in column.cells.items() if row in column.macs}
    return sorted((column.macs[row], mean) for row, mean in means.items() if mean is not None)


def _printed_panel(panel: Axes, found: Sequence[Section]) -> None:
    printed = {section.printed.model or "networks": line_of(section.printed) for section in found}
    ours = {column.title: points for section in found for column in section.beside if (points := _ours(column))}
    _draw(panel, printed | ours, dashed=tuple(printed))
    panel.set_title("\n".join(textwrap.wrap(f"{found[0].printed.dataset}, as printed", 46)), fontsize=9)
    panel.set_ylabel(HEADS[found[0].printed.metric].partition(",")[0])


def _apart_panel(panel: Axes, note: str, columns: Sequence[Column]) -> None:
    metric, _, where = note.partition(": ")
    _draw(panel, {column.title: points for column in columns if (points := _ours(column))})
    panel.set_title("\n".join(textwrap.wrap(f"Not comparable: {where.partition('. ')[0]}", 52)), fontsize=9)
    panel.set_ylabel(metric)


def _draw(panel: Axes, lines: Mapping[str, Line], *, dashed: Collection[str] = ()) -> None:
    costs = [cost for points in lines.values() for cost, _ in points]
    size, unit = axis_unit(max(costs, default=0))
    for number, (label, points) in enumerate(lines.items()):
        x, y = [cost / size for cost, _ in points], [value for _, value in points]
        style = line_style(number) | ({"linestyle": "--"} if label in dashed else {})
        panel.plot(x, y, marker=MARKERS[number % len(MARKERS)], markersize=4, label=label, **style)
    panel.set_xlabel(f"multiply-adds{unit}")
    panel.grid(alpha=0.25, linewidth=0.5)
    panel.legend(frameon=False, fontsize=8)
    if max(costs, default=0) > LOGARITHMIC * min(costs, default=0):
        make_logarithmic(panel)
