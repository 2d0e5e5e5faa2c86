"""The grid of guesses: held-out images, and below each what every width takes it for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from tasks.by_width import SHOWN, SIDE, rows_of_pictures
from tasks.classification.images import LabelledImages
from tasks.classification.normalise import Normalisation
from tasks.training.width_rules import WidthRule

LOOK = 1000  # images that are sorted by width
LINE = 0.17  # of text, in inches
RIGHT, WRONG = "#1a7f37", "#b3261e"


@torch.no_grad()
def guesses(
    nets: Mapping[str, Callable[[Tensor], Tensor]],
    images: LabelledImages,
    normalisation: Normalisation,
    prepare: Callable[[Tensor], Tensor] | None,
) -> Figure:
    """A column an image, the first of each class; a line a network: its guess and how sure it is.

    Args:
        nets: label -> network, computing [N, 3, size, size] -> logits [N, classes].
        images: held out.
        normalisation: of what enters the networks.
        prepare: crops an image, uint8 [3, H, W] -> [3, size, size]; None: it stays whole.
    """
    chosen = first_of_each_class(images.labels)[:SHOWN]
    pixels = torch.stack([image if prepare is None else prepare(image) for image in map(images.read, chosen)])
    labels = images.labels[chosen]
    found = {label: net(normalisation(pixels.float() / 255)).softmax(1).cpu() for label, net in nets.items()}
    figure, cells = _row_of_cells(len(chosen), lines=len(nets))
    for column, cell in enumerate(cells):
        cell.imshow(pixels[column].permute(1, 2, 0).numpy(), interpolation="nearest")
        cell.set_title(images.classes[int(labels[column])], fontsize=8)
        cell.set_xticks([])
        cell.set_yticks([])
        for line, (label, confidences) in enumerate(found.items()):
            _write(cell, line, column, label, images.classes, confidences[column], int(labels[column]))
    figure.suptitle(_finding(found, labels), fontsize=10)
    return figure


@torch.no_grad()
def by_width(
    net: nn.Module,
    rule: WidthRule,
    images: LabelledImages,
    normalisation: Normalisation,
    prepare: Callable[[Tensor], Tensor] | None,
) -> Figure:
    """A row a width, narrow first: some of the images that a rule gives it, easy ones above hard ones.

    Args:
        rule: chooses a width for each image.
        images, normalisation, prepare: as of `guesses`.
    """
    read = map(images.read, range(min(len(images), LOOK)))
    pixels = torch.stack([image if prepare is None else prepare(image) for image in read])
    answer = rule.answer(net, normalisation(pixels.float() / 255))
    right = (answer.output.argmax(1).cpu() == images.labels[: len(pixels)]).tolist()
    places = {width: [i for i, own in enumerate(answer.widths) if own == width] for width in rule.widths}
    rows = {}
    for width, found in places.items():
        if found:
            share, wrong = len(found) / len(pixels), 1 - sum(right[i] for i in found) / len(found)
            label = f"{rule.named(width)}\n{100 * share:.0f} %\nerror {100 * wrong:.0f} %"
            some = found[:SHOWN]
            rows[label] = [(pixels[i].permute(1, 2, 0).numpy(), RIGHT if right[i] else WRONG) for i in some]
    return rows_of_pictures(rows, f"{len(pixels)} held-out images by the width that answers them")


def first_of_each_class(labels: Tensor) -> list[int]:
    """For each class that occurs, in order, the index of its first image; labels are int64 [n]."""
    first: dict[int, int] = {}
    for index, label in enumerate(labels.tolist()):
        first.setdefault(label, index)
    return [first[label] for label in sorted(first)]


def _row_of_cells(count: int, *, lines: int) -> tuple[Figure, Sequence[Any]]:
    """A figure with `count` square axes side by side, and room for a title above and lines of text below them."""
    width, height = SIDE * (count + 1), 0.6 + SIDE + (lines + 0.5) * LINE
    figure = Figure(figsize=(width, height))
    cells = figure.subplots(1, count, squeeze=False)[0]
    edges = {"left": SIDE / width, "right": 0.99, "top": 1 - 0.6 / height, "bottom": (lines + 0.5) * LINE / height}
    figure.subplots_adjust(wspace=0.08, **edges)
    return figure, cells


def _write(
    cell: Any, line: int, column: int, label: str, classes: Sequence[str], confidences: Tensor, true: int
) -> None:
    """A network's guess below an image, and left of the first image whose line it is."""
    guess = int(confidences.argmax())
    text, colour = f"{classes[guess]} {100 * float(confidences[guess]):.0f} %", RIGHT if guess == true else WRONG
    below = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top", "fontsize": 7}
    down = -72 * LINE * (line + 0.25)
    cell.annotate(text, (0.5, 0), (0, down), ha="center", color=colour, **below)
    if column == 0:
        cell.annotate(label, (0, 0), (-8, down), ha="right", **below)


def _finding(found: Mapping[str, Tensor], labels: Tensor) -> str:
    """How many of the images each network has right."""
    right = {label: int((confidences.argmax(1) == labels).sum()) for label, confidences in found.items()}
    return f"of these {len(labels)} images right: " + ", ".join(f"{n} at {label}" for label, n in right.items())
