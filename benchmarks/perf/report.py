"""The performance table and figure, made from the records alone: a part for each class of machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.analysis.figures import STYLE, image_files
from benchmarks.analysis.grid import markdown_table
from benchmarks.perf.measurement import Machine, Measurement
from benchmarks.perf.reasons import reason
from benchmarks.perf.records import PerformanceRecord, read
from benchmarks.perf.ways import ALTERNATIVES, write_alternatives
from tasks.atomic import write_atomically

ORDER = (
    "inference in place",
    "inference frozen",
    "inference extracted",
    "inference folded and channels_last",
    "inference exported",
    "sandwich step",
    "images trained",
    "rate of arithmetic",
    "step outside of kernels",
    "step of a rule",
    "sandwich peak memory",
    "inference memory",
    "parameters of private BatchNorms",
    "start",
    "convert",
    "width switch",
    "freeze",
    "export",
    "spectrum",
    "calibration",
    "plan evaluation",
    "latency table error",
    "routing",
)
KEPT, OVER, FREE = "#55a868", "#c44e52", "0.4"
HEAD = ("measured", "network", "setting", "value", "quartiles", "limit", "verdict", "dense takes")


Rows = Mapping[Machine, Sequence[Measurement]]


def write_report(folder: Path) -> str:
    """Write table.md and figure.png/.svg beside the records, and the page of alternatives; return the table."""
    records = read(folder)
    if not records:
        raise ValueError(f"{folder / 'records'} holds no performance records; run python -m benchmarks.perf first")
    write_alternatives(folder, records)
    rows = rows_of_machines(records)
    table = table_md(rows, records)
    write_atomically(folder / "table.md", table)
    for kind, content in draw(rows).items():
        write_atomically(folder / f"figure.{kind}", content)
    return table


def rows_of_machines(records: Iterable[PerformanceRecord]) -> dict[Machine, list[Measurement]]:
    """The measurements of each class of machines, in the order in which they are shown.

    Without those that have a page of their own.
    """
    rows: dict[Machine, list[Measurement]] = {}
    for record in sorted(records, key=lambda record: record.machine):
        shown = [m for m in record.measurements if m.what not in ALTERNATIVES]
        if shown:
            rows.setdefault(record.machine, []).extend(shown)
    return {machine: sorted(measured, key=_place) for machine, measured in rows.items()}


def _place(m: Measurement) -> tuple[int, str]:
    return (ORDER.index(m.what) if m.what in ORDER else len(ORDER), m.network)


def finding(rows: Iterable[Measurement]) -> str:
    """What the measurements say, in a line. A limit that was measured on several machines holds on all, or not."""
    kept: dict[tuple[str, str, str], bool] = {}
    for m in rows:
        if m.limit is not None:
            kept[m.subject] = kept.get(m.subject, True) and m.verdict == "kept"
    return f"slimlib keeps {sum(kept.values())} of {len(kept)} limits against individually built dense networks"


def table_md(rows: Rows, records: Sequence[PerformanceRecord]) -> str:
    """A table for each class of machines, below a caption; in columns, so that they also read well as they are."""
    parts = [f"# {finding(_all(rows))}", caption(records)]
    for machine, measured in rows.items():
        rounds = sorted({record.rounds for record in records if record.machine == machine})
        parts += [f"## {machine}", f"{finding(measured)}; {' or '.join(map(str, rounds))} rounds."]
        parts.append(markdown_table(HEAD, [shown(m) for m in measured], words=3))
        parts += why(measured, machine)
    return "\n\n".join(parts) + "\n"


def _all(rows: Rows) -> list[Measurement]:
    return [m for measured in rows.values() for m in measured]


def why(rows: Sequence[Measurement], machine: Machine) -> list[str]:
    """A paragraph for each reason of what is over its limit."""
    found: dict[str, list[str]] = {}
    for m in rows:
        if m.verdict == "over":
            found.setdefault(reason(m, machine.device) or "Not found yet.", []).append(", ".join(m.subject))
    return [f"**Over: {'; '.join(over)}.** {text}" for text, over in found.items()]


def caption(records: Sequence[PerformanceRecord]) -> str:
    """How it was measured."""
    clock = "CPU time" + (
        "; on a GPU the time until it is done" if any(r.machine.device == "cuda" for r in records) else ""
    )
    return (
        f"What is compared runs in turns; {clock}; median and quartiles of the ratio in each round, "
        "slimlib over dense (below 1: slimlib is faster). Dense networks are built individually with the channels of "
        "each width, carry the same weights and use the same memory format; inference at batch 1 in eval mode. "
        "Each class of machines (processor, threads, build of torch, device) has a part of its own; a limit that "
        "several have measured counts as kept where it holds on each."
    )


def shown(m: Measurement) -> list[str]:
    """The cells of its row."""
    unit = "" if m.unit == "x" else f" {m.unit}"
    digits = 2 if m.unit in ("x", "s") else 1
    value, low, high = (f"{number:.{digits}f}" for number in (m.value.median, m.value.low, m.value.high))
    limit = "" if m.limit is None else f"{m.limit:.{digits}f}{unit}"
    seconds = "" if m.seconds is None else f"{1e3 * m.seconds:.1f} ms"
    spread = f"{low} to {high}" if m.value.low < m.value.high else ""
    return [m.what, m.network, m.setting, value + unit, spread, limit, m.verdict, seconds]


def draw(rows: Rows) -> dict[str, bytes]:
    """All ratios, one line each, with their limits; a panel for each class of machines."""
    ratios = {machine: [m for m in measured if m.unit == "x"] for machine, measured in rows.items()}
    ratios = {machine: measured for machine, measured in ratios.items() if measured}
    sizes = [len(measured) + 3 for measured in ratios.values()] or [3]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.6 + 0.17 * sum(sizes)), layout="constrained")
        panels = figure.subplots(len(sizes), squeeze=False, sharex=True, height_ratios=sizes)[:, 0]
        for panel, (machine, measured) in zip(panels, ratios.items(), strict=False):
            _panel(panel, machine, measured[::-1])
        panels[-1].axvline(1.0, color="black", linestyle="--", linewidth=1, label="dense networks")
        panels[-1].plot([], [], "|", color="black", label="limit")
        panels[-1].set_xlabel("time or memory, slimlib / dense (median; bar: quartiles)", loc="right")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(finding(_all(rows)), fontsize=10)
        return image_files(figure)


def _panel(axes: Axes, machine: Machine, measured: Sequence[Measurement]) -> None:
    for height, m in enumerate(measured):
        _dot(axes, m, height)
    axes.set_yticks(range(len(measured)), [f"{m.what}: {m.network}, {m.setting}" for m in measured], fontsize=7)
    axes.set_ylim(-1, len(measured))
    axes.axvline(1.0, color="black", linestyle="--", linewidth=1)
    axes.grid(alpha=0.25, linewidth=0.5, axis="x")
    axes.set_title(str(machine), fontsize=8, loc="right")


def _dot(axes: Axes, m: Measurement, height: int) -> None:
    colour = {"kept": KEPT, "over": OVER}.get(m.verdict, FREE)
    axes.plot([m.value.low, m.value.high], [height, height], color=colour, linewidth=2, alpha=0.5)
    axes.plot(m.value.median, height, "o", color=colour, markersize=4)
    if m.limit is not None:
        axes.plot(m.limit, height, "|", color="black", markersize=8)
