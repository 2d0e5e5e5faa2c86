"""Holding out images of every class in equal parts, always the same ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tasks.classification.images import LabelledImages, class_sizes, part_of

_SEED = 2019  # never changed: which images are held out is part of what every result means


def hold_out_fraction(images: LabelledImages, fraction: float, *, name: str) -> tuple[LabelledImages, LabelledImages]:
    """Split off a fraction of each class, rounded, and at least one image.

    Args:
        images: what is split.
        fraction: above 0 and below 1.
        name: of the held-out set.

    Returns:
        The images that are left, under their old name, and the held-out ones.

    Raises:
        ValueError: a class has only one image.
    """
    sizes = class_sizes(images)
    return _split(images, [max(1, int(size * fraction + 0.5)) for size in sizes], name)


def hold_out_count(images: LabelledImages, count: int, *, name: str) -> tuple[LabelledImages, LabelledImages]:
    """Split off so many images, of each class in proportion to its size; otherwise as `hold_out_fraction`.

    Of a larger count those of a smaller one are a part, but for the rounding.

    Raises:
        ValueError: `count` leaves nothing of a class.
    """
    sizes = class_sizes(images)
    if count >= len(images):
        raise ValueError(f"hold_out={count} of the {len(images)} training images of {images.name}: nothing is left")
    exact = np.asarray(sizes, dtype=np.float64) * count / len(images)
    shares = np.floor(exact).astype(int)
    largest_rests = np.argsort(shares - exact, kind="stable")[: count - shares.sum()]
    shares[largest_rests] += 1
    return _split(images, shares.tolist(), name)


def _split(images: LabelledImages, shares: Sequence[int], name: str) -> tuple[LabelledImages, LabelledImages]:
    labels = images.labels.numpy()
    sizes = np.bincount(labels, minlength=len(shares))
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])  # indices of each class, ascending
    held = np.zeros(len(labels), dtype=bool)
    for label, (indices, share) in enumerate(zip(members, shares, strict=True)):
        if len(indices) and share >= len(indices):
            raise ValueError(
                f"the class '{images.classes[label]}' of {images.name} has {len(indices)} image(s), and {share} would "
                "be held out; training and evaluation need one each"
            )
        # RandomState, because NumPy promises that its numbers never change.
        held[np.random.RandomState([_SEED, label]).permutation(indices)[:share]] = True
    kept, split_off = (torch.from_numpy(np.flatnonzero(chosen)) for chosen in (~held, held))
    return part_of(images, kept, name=images.name), part_of(images, split_off, name=name)
