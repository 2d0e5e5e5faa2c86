"""A page and a figure to choose from: every way to run a width of a network, beside what people would use instead."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.analysis.figures import STYLE, image_files, make_logarithmic
from benchmarks.analysis.grid import markdown_table
from benchmarks.perf.alternatives import DENSE, ERROR, INT8, WAYS, WHAT
from benchmarks.perf.measurement import Machine
from benchmarks.perf.records import PerformanceRecord
from benchmarks.perf.timing import Spread
from tasks.atomic import write_atomically

ALTERNATIVES = (WHAT, ERROR)
SETTING = re.compile(r"width (?P<width>[\d.]+), batch (?P<batch>\d+), (?P<way>.+)")
COLOURS = {"torch,": "0.35", "slimlib": "#4c72b0", "torch.compile": "#55a868", "onnxruntime": "#dd8452"}
LAST_COLOUR = "#c44e52"
MARKERS = "osDv"


@dataclass(frozen=True)
class Timed:
    """What one way took on a machine: of one image in milliseconds, of a batch in images a second."""

    machine: Machine
    network: str
    width: float
    batch: int
    way: str
    unit: str
    value: Spread

    @property
    def seconds(self) -> float:
        """Of an image, the median."""
        return self.value.median / 1e3 if self.unit == "ms" else 1 / self.value.median


def timed(records: Iterable[PerformanceRecord], what: str = WHAT) -> list[Timed]:
    """What the records have of the alternatives (or of the errors of int8), sorted."""
    found = []
    for record in records:
        for m in record.measurements:
            if m.what == what and (setting := SETTING.fullmatch(m.setting)):
                width, batch, way = float(setting["width"]), int(setting["batch"]), setting["way"]
                found.append(Timed(record.machine, m.network, width, batch, way, m.unit, m.value))
    return sorted(found, key=lambda t: (t.machine, t.network, t.batch, WAYS.index(t.way), t.width))


def write_alternatives(folder: Path, records: Sequence[PerformanceRecord]) -> None:
    """Write alternatives.md and alternatives.png/.svg, if anything was measured."""
    found = timed(records)
    if found:
        write_atomically(folder / "alternatives.md", page(found, timed(records, ERROR)))
        for kind, content in draw(found).items():
            write_atomically(folder / f"alternatives.{kind}", content)


def finding(found: Sequence[Timed]) -> str:
    """Which way was the fastest, in float32 and of all, over networks, widths, batches and machines."""
    parts = []
    for kind, left_out in (("in float32", INT8), ("of all", ())):
        fastest: dict[tuple[Machine, str, float, int], Timed] = {}
        for t in found:
            key = t.machine, t.network, t.width, t.batch
            if t.way not in left_out and (key not in fastest or t.seconds < fastest[key].seconds):
                fastest[key] = t
        wins = Counter(t.way for t in fastest.values()).most_common()
        parts.append(f"{kind} {', '.join(f'{way} ({count} of {len(fastest)})' for way, count in wins)}")
    return f"Fastest {'; '.join(parts)}"


def page(found: Sequence[Timed], errors: Sequence[Timed]) -> str:
    """Two tables for each network and class of machines: ways over widths."""
    parts = [
        f"# {finding(found)}",
        "One network at one width, in every way that one may run it: torch's own dense network of these channels, "
        "slimlib in place, frozen and extracted, torch.compile of the latter two, and the files of `slim.export` in "
        "onnxruntime and OpenVINO, in float32 and in int8 after static quantisation. slimlib's are in channels_last, "
        "frozen and extracted ones with folded norms. One thread; CPU time of the process, in turns; medians. "
        "In float32 all outputs equal the dense network's. Made by `python -m benchmarks.perf alternatives`.",
        "![Milliseconds of an image and images a second over width](alternatives.png)",
    ]
    for machine in dict.fromkeys(t.machine for t in found):
        parts.append(f"## {machine}")
        for network in dict.fromkeys(t.network for t in found if t.machine == machine):
            own = [t for t in found if (t.machine, t.network) == (machine, network)]
            for batch in sorted({t.batch for t in own}):
                parts += _table(network, batch, [t for t in own if t.batch == batch])
            parts += _error(network, [t for t in errors if (t.machine, t.network) == (machine, network)])
    return "\n\n".join(parts) + "\n"


def _table(network: str, batch: int, found: Sequence[Timed]) -> list[str]:
    widths = sorted({t.width for t in found})
    values = {(t.way, t.width): t for t in found}
    head = [f"{network}, {'milliseconds of an image' if batch == 1 else f'images a second in batches of {batch}'}"]
    rows = []
    for way in dict.fromkeys(t.way for t in found):
        cells = [values.get((way, width)) for width in widths]
        rows.append([way, *("" if t is None else _shown(t) for t in cells)])
    return [markdown_table([*head, *(f"width {width:g}" for width in widths)], rows)]


def _shown(t: Timed) -> str:
    return f"{t.value.median:.2f}" if t.unit == "ms" else f"{t.value.median:.0f}"


def _error(network: str, errors: Sequence[Timed]) -> list[str]:
    if not errors:
        return []
    low, high = min(t.value.median for t in errors), max(t.value.median for t in errors)
    return [
        f"In int8 the outputs of {network} are off by {low:.0f} to {high:.0f} % (norm of the difference over theirs), "
        "with the weights of a network that was never trained. Measure the accuracy of yours before you choose int8."
    ]


def draw(found: Sequence[Timed]) -> dict[str, bytes]:
    """A row of panels for each machine and network: milliseconds of an image, and images a second."""
    rows = list(dict.fromkeys((t.machine, t.network) for t in found))
    batches = sorted({t.batch for t in found})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5 * len(batches), 1.7 + 3.6 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), len(batches), squeeze=False)
        for (machine, network), line in zip(rows, panels, strict=True):
            for batch, panel in zip(batches, line, strict=True):
                _panel(panel, [t for t in found if (t.machine, t.network, t.batch) == (machine, network, batch)])
                panel.set_title(f"{network}, batch {batch}\n{machine}", fontsize=7)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=7)
        figure.suptitle("\n".join(finding(found).split("; ")), fontsize=8)
        return image_files(figure)


def _panel(axes: Axes, found: Sequence[Timed]) -> None:
    seen: Counter[str] = Counter()
    for way in dict.fromkeys(t.way for t in found):
        own = [t for t in found if t.way == way]
        kind = way.split()[0]
        axes.plot(
            [t.width for t in own], [t.value.median for t in own], MARKERS[seen[kind] % len(MARKERS)],
            linestyle="--" if way == DENSE else ":" if way in INT8 else "-", color=COLOURS.get(kind, LAST_COLOUR),
            markersize=4, linewidth=1, label=way,
        )  # fmt: skip
        seen[kind] += 1
    make_logarithmic(axes, "y")
    axes.set_xticks(sorted({t.width for t in found}))
    axes.set_xlabel("width")
    axes.set_ylabel("images a second" if found and found[0].unit == "images/s" else "milliseconds of an image")
    axes.grid(alpha=0.25, linewidth=0.5, which="both")
