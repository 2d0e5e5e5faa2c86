"""The figures: kernels, exciting patches, correlations between widths, and importance over channel order."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.analysis.figures import STYLE, WIDTH_COLOURS, WIDTH_SCALE, image_files, line_style
from benchmarks.features.importance import POSITIONS
from tasks.points import name_of_width

Files = dict[str, bytes]
Tile = tuple[Tensor, float]
"""An image [3, side, side] in [0, 1], and the width whose colour its frame has."""

COLUMNS = 32
"""Of kernels, in a row."""
MOST_LAYERS = 8
"""Of correlations in a row; of more layers some are shown, evenly spaced."""
FRAME, PIXELS = 3, 24  # of a tile, in pixels of the figure


def kernels(tiles: Mapping[str, Sequence[Tile]], finding: str) -> Files:
    """The kernels of the first layer, rows for each recipe; the frame is the narrowest width that uses a channel.

    Args:
        tiles: recipe -> its channels in order.
    """
    rows: dict[str, Sequence[Tile | None]] = {}
    for recipe, of in tiles.items():
        for start in range(0, len(of), COLUMNS):
            rows[recipe if not start else f"{recipe}, from channel {start}"] = of[start : start + COLUMNS]
    return _tiled(rows, finding, "channel, in order")


def patches(tiles: Mapping[str, Sequence[Tile | None]], finding: str, label: str) -> Files:
    """A row for each channel: the patches that excite it most, at each width side by side; None: not active there."""
    return _tiled(tiles, finding, label)


def _tiled(rows: Mapping[str, Sequence[Tile | None]], finding: str, label: str) -> Files:
    columns, side = max(map(len, rows.values())), PIXELS + 2 * FRAME
    image = np.ones((len(rows) * side, columns * side, 3))
    for row, tiles in enumerate(rows.values()):
        for column, tile in enumerate(tiles):
            if tile is not None:
                image[row * side : (row + 1) * side, column * side : (column + 1) * side] = _framed(*tile)
    with matplotlib.rc_context(STYLE):
        size = max(5.5, 1.6 + 0.26 * columns), 1.3 + 0.28 * len(rows)
        drawn = Figure(figsize=size, layout="constrained")
        panel = drawn.subplots()
        panel.imshow(image, interpolation="nearest")
        panel.set_yticks([(row + 0.5) * side for row in range(len(rows))], list(rows), fontsize=7)
        panel.set_xticks([])
        panel.set_xlabel(label, fontsize=8)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
        _colours(drawn, [panel])
        return _titled(drawn, finding)


def _framed(tile: Tensor, width: float) -> np.ndarray:
    """[3, h, w] -> [side, side, 3], in the middle, with a frame in its colour; enlarged by whole pixels, or shrunk."""
    largest = max(tile.shape[1:])
    scale = PIXELS // largest if largest <= PIXELS else PIXELS / largest
    height, across = (max(1, int(scale * size)) for size in tile.shape[1:])
    pixels = interpolate(tile[None], (height, across), mode="nearest" if scale >= 1 else "area")[0].permute(1, 2, 0)
    framed = np.ones((PIXELS + 2 * FRAME, PIXELS + 2 * FRAME, 3))
    top, left = (PIXELS - height) // 2 + FRAME, (PIXELS - across) // 2 + FRAME
    framed[top - 2 : top + height + 2, left - 2 : left + across + 2] = WIDTH_COLOURS(WIDTH_SCALE(width))[:3]
    framed[top : top + height, left : left + across] = pixels.numpy()
    return framed


def correlations(
    found: Mapping[str, Mapping[str, Tensor]], widths: Mapping[str, Sequence[float]], finding: str
) -> Files:
    """A row for each recipe, a matrix for each layer: how alike the responses of a channel are between widths."""
    first, *others = found.values()
    layers = [layer for layer in first if all(layer in of for of in others)]
    count = min(MOST_LAYERS, len(layers))
    layers = [layers[i * len(layers) // count] for i in range(count)]
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(1.4 + 0.85 * count, 1.0 + 1.05 * len(found)), layout="constrained")
        panels = drawn.subplots(len(found), count, squeeze=False)
        for row, (recipe, matrices) in zip(panels, found.items(), strict=True):
            names = [name_of_width(width) for width in widths[recipe]]
            for panel, layer in zip(row, layers, strict=True):
                shown = panel.imshow(matrices[layer].numpy(), vmin=0, vmax=1, cmap="magma", origin="lower")
                panel.set_title(layer, fontsize=5)
                panel.set_xticks(range(len(names)), names, fontsize=5, rotation=90)
                panel.set_yticks(range(len(names)), names if panel is row[0] else [], fontsize=5)
            row[0].set_ylabel("\n".join(textwrap.wrap(recipe, 14)), fontsize=7)
        drawn.colorbar(shown, ax=list(panels.flat), label="correlation", fraction=0.02, pad=0.01)
        drawn.supxlabel("width (black: no correlation, or less)", fontsize=7)
        return _titled(drawn, finding)


def importance(curves: Mapping[str, Mapping[str, Sequence[Tensor]]], individual: Sequence[str], finding: str) -> Files:
    """A panel for each measure, a line for each recipe: how it falls over channel order, the spread of seeds shaded.

    Args:
        curves: measure -> recipe -> shares [POSITIONS] of each seed.
        individual: the recipes that are drawn dashed.
    """
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(1.0 + 2.6 * len(curves), 3.6), layout="constrained")
        panels: Sequence[Axes] = drawn.subplots(1, len(curves), squeeze=False)[0]
        recipes = list(dict.fromkeys(recipe for of in curves.values() for recipe in of))
        for panel, (measure, of) in zip(panels, curves.items(), strict=True):
            for recipe, shares in of.items():
                style = line_style(recipes.index(recipe), individual=recipe in individual)
                _line(panel, torch.stack(list(shares)) * POSITIONS, style)
            panel.axhline(1, color="0.45", linestyle=":", linewidth=1.2)
            panel.axvspan(0, 0.25, color="0.93", zorder=0)
            panel.set_title(measure, fontsize=9)
            panel.set_xlabel("place in the order of channels")
            panel.set_xlim(0, 1)
            panel.set_ylim(bottom=min(0, panel.get_ylim()[0]))
        panels[0].set_ylabel("share of a channel (1: all alike)")
        handles = [Line2D([], [], label=r, **line_style(n, individual=r in individual)) for n, r in enumerate(recipes)]
        handles.append(Line2D([], [], color="0.45", linestyle=":", label="all channels alike"))
        drawn.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), frameon=False)
        return _titled(drawn, finding)


def _line(panel: Axes, shares: Tensor, style: Mapping[str, Any]) -> None:
    """Of seeds [S, POSITIONS]."""
    places, values = (np.arange(POSITIONS) + 0.5) / POSITIONS, shares.numpy()
    panel.plot(places, values.mean(0), **style)
    if len(values) > 1:
        panel.fill_between(places, values.min(0), values.max(0), color=style["color"], alpha=0.15, linewidth=0)


def _colours(drawn: Figure, panels: list[Axes]) -> None:
    drawn.colorbar(ScalarMappable(WIDTH_SCALE, WIDTH_COLOURS), ax=panels, label="width", fraction=0.03, pad=0.01)


def _titled(drawn: Figure, finding: str) -> Files:
    drawn.suptitle("\n".join(textwrap.wrap(finding, math.floor(11 * drawn.get_figwidth()))), fontsize=9)
    return image_files(drawn)
