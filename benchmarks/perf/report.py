"""The performance table and figure, made from the records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.analysis.figures import STYLE, image_files
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.reasons import reason
from benchmarks.perf.records import PerformanceRecord, read
from tasks.atomic import write_atomically

ORDER = (
    "inference in place",
    "inference frozen",
    "inference extracted",
    "inference folded and channels_last",
    "inference exported",
    "sandwich step",
    "sandwich peak memory",
    "width switch",
    "export",
    "spectrum",
    "calibration",
)
KEPT, OVER, FREE = "#55a868", "#c44e52", "0.4"
HEAD = ("measured", "network", "setting", "value", "quartiles", "limit", "verdict", "dense takes")


def write_report(folder: Path) -> str:
    """Write table.md and figure.png/.svg beside the records, and return the table."""
    records = read(folder)
    if not records:
        raise ValueError(f"{folder / 'records'} holds no performance records; run python -m benchmarks.perf first")
    rows = sorted((m for record in records for m in record.measurements), key=_place)
    table = table_md(rows, records)
    write_atomically(folder / "table.md", table)
    for kind, content in draw(rows).items():
        write_atomically(folder / f"figure.{kind}", content)
    return table


def _place(m: Measurement) -> tuple[int, str]:
    return (ORDER.index(m.what) if m.what in ORDER else len(ORDER), m.network)


def finding(rows: Sequence[Measurement]) -> str:
    """What the measurements say, in a line."""
    bound = [m for m in rows if m.limit is not None]
    kept = sum(m.verdict == "kept" for m in bound)
    return f"slimlib keeps {kept} of {len(bound)} limits against individually built dense networks"


def table_md(rows: Sequence[Measurement], records: Sequence[PerformanceRecord]) -> str:
    """The table, with its caption; in columns, so that it also reads well as it is."""
    cells = [list(HEAD), *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    lines = [_line(row) for row in [padded[0], ["-" * width for width in widths], *padded[1:]]]
    return "\n".join([f"# {finding(rows)}", "", caption(records), "", *lines, "", *why(rows)])


def why(rows: Sequence[Measurement]) -> list[str]:
    """A line for each reason of what is over its limit."""
    found: dict[str, list[str]] = {}
    for m in rows:
        if m.verdict == "over":
            found.setdefault(reason(m) or "Not found yet.", []).append(f"{m.what}, {m.network}, {m.setting}")
    return [line for text, over in found.items() for line in (f"**Over: {'; '.join(over)}.** {text}", "")]


def caption(records: Sequence[PerformanceRecord]) -> str:
    """How it was measured, and on what."""
    hosts = sorted({str(record.origin["host"]) for record in records})
    torches = sorted({str(record.origin["versions"]["torch"]) for record in records})
    rounds = sorted({record.rounds for record in records})
    return (
        "One thread; what is compared runs in turns, "
        f"{' or '.join(map(str, rounds))} rounds; CPU time; median and quartiles of the ratio in each round, "
        "slimlib over dense (below 1: slimlib is faster). Dense networks are built individually with the channels of "
        "each width, carry the same weights and use the same memory format; inference at batch 1 in eval mode. "
        f"torch {', '.join(torches)}, {'; '.join(hosts)}."
    )


def _cells(m: Measurement) -> list[str]:
    unit = "" if m.unit == "x" else f" {m.unit}"
    digits = 2 if m.unit == "x" else 1
    value, low, high = (f"{number:.{digits}f}" for number in (m.value.median, m.value.low, m.value.high))
    limit = "" if m.limit is None else f"{m.limit:.{digits}f}{unit}"
    seconds = "" if m.seconds is None else f"{1e3 * m.seconds:.1f} ms"
    spread = f"{low} to {high}" if m.value.low < m.value.high else ""
    return [m.what, m.network, m.setting, value + unit, spread, limit, m.verdict, seconds]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def draw(rows: Sequence[Measurement]) -> dict[str, bytes]:
    """All ratios, one line each, with their limits."""
    ratios = [m for m in rows if m.unit == "x"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.6 + 0.17 * len(ratios)), layout="constrained")
        axes: Axes = figure.subplots()
        for height, m in enumerate(reversed(ratios)):
            _dot(axes, m, height)
        axes.set_yticks(
            range(len(ratios)), [f"{m.what}: {m.network}, {m.setting}" for m in reversed(ratios)], fontsize=7
        )
        axes.set_ylim(-1, len(ratios))
        axes.axvline(1.0, color="black", linestyle="--", linewidth=1, label="dense networks")
        axes.plot([], [], "|", color="black", label="limit")
        axes.set_xlabel("time or memory, slimlib / dense (median; bar: quartiles)")
        axes.grid(alpha=0.25, linewidth=0.5, axis="x")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(finding(rows), fontsize=10)
        return image_files(figure)


def _dot(axes: Axes, m: Measurement, height: int) -> None:
    colour = {"kept": KEPT, "over": OVER}.get(m.verdict, FREE)
    axes.plot([m.value.low, m.value.high], [height, height], color=colour, linewidth=2, alpha=0.5)
    axes.plot(m.value.median, height, "o", color=colour, markersize=4)
    if m.limit is not None:
        axes.plot(m.limit, height, "|", color="black", markersize=8)
