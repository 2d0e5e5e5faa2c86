"""Crops of images, one method beside the other: as a grid to print, and as pixels to look into."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from tasks.pixels import png
from tasks.task import Showcase


@dataclass(frozen=True)
class Crop:
    """What one method makes of an image, uint8 [H, W, 3]; what is not scored has no PSNR."""

    label: str
    pixels: np.ndarray
    decibels: float | None = None


@dataclass(frozen=True)
class Row:
    """The crops of an image, and whom to thank for it."""

    name: str
    credit: str
    crops: Sequence[Crop]


def showcase_of(rows: Sequence[Row], *, finding: str, measured: str, note: str = "") -> Showcase:
    """The grid, and `crops/` with each of them as it is, which `crops/index.json` lists.

    Args:
        finding: the title; `measured`: what PSNR or boxes are of; `note`: what else stands below the grid.
    """
    return Showcase(_grid(rows, finding, f"{measured}.{note}"), dict(_files(rows, measured)))


def _grid(rows: Sequence[Row], finding: str, below: str) -> Figure:
    """A row an image, a column a method; above each crop the PSNR of its whole image."""
    shown, scored = (
        (len(rows), len(rows[0].crops)),
        any(crop.decibels is not None for row in rows for crop in row.crops),
    )
    figure = Figure(figsize=(1.75 * shown[1], 2.05 * shown[0] + 0.5), layout="constrained")
    for cells, row in zip(figure.subplots(*shown, squeeze=False), rows, strict=True):
        for cell, crop in zip(cells, row.crops, strict=True):
            cell.imshow(crop.pixels, interpolation="nearest")
            score = "" if crop.decibels is None else f"{crop.decibels:.2f} dB"
            cell.set_title(f"{crop.label}\n{score}" if scored else crop.label, fontsize=8)
            cell.set_xticks([])
            cell.set_yticks([])
        cells[0].set_ylabel(row.name)
    figure.suptitle(finding, fontsize=10)
    figure.supxlabel(below, fontsize=7)
    return figure


def _files(rows: Sequence[Row], measured: str) -> Iterator[tuple[str, bytes]]:
    """The crops as PNG, then the list of them, so that what it names is there."""
    listed = []
    for row in rows:
        crops = []
        for crop in row.crops:
            file = f"crops/{row.name}/{crop.label}.png".replace(" ", "-")
            yield file, png(crop.pixels)
            crops.append({"label": crop.label, "file": file, "psnr": crop.decibels})
        listed.append({"name": row.name, "credit": row.credit, "crops": crops})
    yield "crops/index.json", json.dumps({"measured": measured, "images": listed}, indent=1).encode() + b"\n"
