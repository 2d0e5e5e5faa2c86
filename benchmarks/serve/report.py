"""What the stream shows: a table of each phase, and a figure of latency, width and quality over time."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.analysis.figures import STYLE, image_files
from benchmarks.analysis.grid import markdown_table
from benchmarks.serve.stream import PHASES, Request

MEAN_OF = 30
COLOURS = {"governor": "#c44e52", "cascade": "#55a868", "full width": "black", "narrowest": "#4c72b0"}


def rows(requests: Sequence[Request]) -> list[list[str]]:
    """For each phase and server: its share in time, its latency and width, and its quality."""
    made = []
    for phase in PHASES:
        for server in _servers(requests):
            found = [r for r in requests if (r.phase, r.server) == (phase.name, server)]
            if not found:
                continue
            in_time = fmean(r.milliseconds <= r.budget for r in found)
            latency = median(r.milliseconds for r in found)
            made.append(
                [
                    phase.name,
                    server,
                    f"{found[0].budget:.1f}",
                    f"{100 * in_time:.0f} %",
                    f"{latency:.1f}",
                    f"{fmean(r.width for r in found):.2f}",
                    f"{fmean(r.psnr for r in found):.2f}",
                ]
            )
    return made


HEAD = ["phase", "server", "budget (ms)", "in time", "median (ms)", "mean width", "PSNR (dB)"]


def finding(requests: Sequence[Request]) -> str:
    """Which server is in time, and with which quality."""
    told = []
    for server in _servers(requests):
        found = [r for r in requests if r.server == server]
        in_time = fmean(r.milliseconds <= r.budget for r in found)
        told.append(f"{server} {100 * in_time:.0f} % in time at {fmean(r.psnr for r in found):.2f} dB")
    return ", ".join(told)


def _servers(requests: Sequence[Request]) -> dict[str, str]:
    """Those that answered, with their colours."""
    seen = {r.server for r in requests}
    return {server: colour for server, colour in COLOURS.items() if server in seen}


def table(requests: Sequence[Request], about: str) -> str:
    """Markdown."""
    return f"# {finding(requests)}\n\n{about}\n\n{markdown_table(HEAD, rows(requests), words=2)}\n"


def figure(requests: Sequence[Request]) -> dict[str, bytes]:
    """Latency, width, and PSNR over that of the full width, over time, with the budget and the phases."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(8, 7), layout="constrained")
        latency, width, quality = drawn.subplots(3, 1, sharex=True)
        widest = [r for r in requests if r.server == "full width"]  # answers the same images
        for server, colour in _servers(requests).items():
            found = [r for r in requests if r.server == server]
            time = [r.seconds for r in found]
            dots: dict[str, Any] = {"linestyle": "none", "marker": ".", "markersize": 2.5, "color": colour}
            latency.plot(time, [r.milliseconds for r in found], label=server, **dots)
            width.plot(time, [r.width for r in found], color=colour, linewidth=1.2, drawstyle="steps-post")
            lost = [r.psnr - best.psnr for r, best in zip(found, widest, strict=True)]
            quality.plot(time, _running(lost, MEAN_OF), color=colour, linewidth=1.2)
        steps = [r for r in requests if r.server == "governor"]
        latency.plot([r.seconds for r in steps], [r.budget for r in steps], color="0.5", linewidth=1.5, label="budget")
        latency.set_yscale("log")
        latency.set_ylabel("latency (ms)")
        width.set_ylabel("width")
        quality.set_ylabel(f"PSNR over the full width's\n(dB, mean of {MEAN_OF} images)")
        quality.set_xlabel("seconds")
        _shade(requests, (latency, width, quality))
        handles, labels = latency.get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, markerscale=4)
        drawn.suptitle(finding(requests), fontsize=10)
        return image_files(drawn)


def _shade(requests: Sequence[Request], panels: Sequence[Any]) -> None:
    for number, phase in enumerate(PHASES):
        inside = [r.seconds for r in requests if r.phase == phase.name]
        if not inside:
            continue
        for panel in panels:
            panel.axvspan(inside[0], inside[-1], color="0.9" if number % 2 else "1.0", zorder=0)
            panel.grid(alpha=0.25, linewidth=0.5)
        middle = (inside[0] + inside[-1]) / 2
        panels[0].annotate(
            phase.name,
            (middle, 1.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            fontsize=8,
            annotation_clip=False,
        )


def _running(values: Sequence[float], count: int) -> list[float]:
    return [fmean(values[max(0, i - count + 1) : i + 1]) for i in range(len(values))]
