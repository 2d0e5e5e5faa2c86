"""Draws docs/sharing.svg, one network at three widths: `python docs/draw_sharing.py`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

WIDTHS = (1.0, 0.5, 0.25)
COLOURS = {0.25: "#0b3c6f", 0.5: "#2b83c9", 1.0: "#a6cdec"}  # of what the narrowest uses, and what each wider adds
COLUMNS = (("input", 3, False), ("layer 1", 8, True), ("layer 2", 8, True), ("output", 4, False))
PANEL, GAP, STEP, MIDDLE = 270, 74, 22, 151
CAPTION = "The narrower network is the leading part of the wider one: nothing is stored twice."


def active(count: int, slims: bool, width: float) -> int:
    """How many units of a column a width uses."""
    return round(count * width) if slims else count


def narrowest(unit: int, count: int, slims: bool) -> float:
    """The smallest width that uses a unit."""
    return next(width for width in reversed(WIDTHS) if unit < active(count, slims, width))


def place(column: int, unit: int) -> tuple[float, float]:
    count = COLUMNS[column][1]
    return 24 + column * GAP, MIDDLE + (unit - (count - 1) / 2) * STEP


def edges(width: float) -> Iterator[str]:
    """The weights that a width uses; those of the narrowest last, on top."""
    drawn = []
    for left, (a, b) in enumerate(pairwise(COLUMNS)):
        for i in range(active(*a[1:], width)):
            for j in range(active(*b[1:], width)):
                first = max(narrowest(i, *a[1:]), narrowest(j, *b[1:]))
                (x1, y1), (x2, y2) = place(left, i), place(left + 1, j)
                line = f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{COLOURS[first]}"/>'
                drawn.append((-first, line))
    yield from (line for _, line in sorted(drawn))


def units(width: float) -> Iterator[str]:
    for column, (name, count, slims) in enumerate(COLUMNS):
        for unit in range(count):
            x, y = place(column, unit)
            on = unit < active(count, slims, width)
            colour = COLOURS[narrowest(unit, count, slims)] if slims else "#555"
            look = f'fill="{colour}"' if on else 'fill="none" stroke="#bbb" stroke-dasharray="2 2"'
            yield f'<circle cx="{x:g}" cy="{y:g}" r="7" {look}/>'
        yield f'<text class="small" x="{24 + column * GAP}" y="258">{name}</text>'


def weights(width: float) -> int:
    return sum(active(*a[1:], width) * active(*b[1:], width) for a, b in pairwise(COLUMNS))


def drawing() -> str:
    """The whole picture."""
    total = PANEL * len(WIDTHS) + 30
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} 330" role="img" aria-label="{CAPTION}">',
        "<style>text{font:15px sans-serif;text-anchor:middle;fill:#222}.bold{font-weight:bold}"
        ".small{font-size:12px;fill:#666}line{stroke-width:1.2}</style>",
        f'<rect width="{total}" height="330" rx="8" fill="#fff"/>',
    ]
    for number, width in enumerate(WIDTHS):
        x = 15 + number * (PANEL + 6)
        lines += [
            f'<g transform="translate({x} 12)">',
            f'<text x="135" y="20" class="bold">width {width:g}</text>',
            f'<text x="135" y="40" class="small">uses {weights(width)} of {weights(1.0)} weights</text>',
            *edges(width),
            *units(width),
            "</g>",
        ]
    lines += [f'<text x="{total / 2:g}" y="310">{CAPTION}</text>', "</svg>"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("sharing.svg").write_text(drawing())
