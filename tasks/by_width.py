"""A figure of inputs by the width that answers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np
from matplotlib.figure import Figure

SHOWN = 10
SIDE = 1.1  # of a picture, in inches


def rows_of_pictures(rows: Mapping[str, Sequence[tuple[np.ndarray, str | None]]], title: str) -> Figure:
    """A row of at most ten pictures for each label.

    Args:
        rows: label -> pictures, uint8 [H, W, 3], each with the colour of its frame, or None.
    """
    figure = Figure(figsize=(SIDE * (SHOWN + 2), SIDE * len(rows) + 0.6), layout="constrained")
    places = figure.subplots(len(rows), SHOWN, squeeze=False)
    for (label, shown), cells in zip(rows.items(), places, strict=True):
        cells[0].set_ylabel(label, fontsize=8)
        for cell, one in zip_longest(cells, shown[:SHOWN]):
            cell.set_xticks([])
            cell.set_yticks([])
            if one is None:
                cell.set_frame_on(False)
                continue
            picture, colour = one
            cell.imshow(picture, interpolation="nearest")
            for edge in cell.spines.values() if colour is not None else ():
                edge.set_edgecolor(colour)
    figure.suptitle(title, fontsize=10)
    return figure
