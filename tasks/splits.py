"""Folders of training and evaluation images, told by their names."""

from __future__ import annotations

import os
from pathlib import Path

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Names of the folder of a split, in any case."""


def splits_in(root: Path) -> dict[str, str]:
    """train, val and test -> their folders in `root`, however they are spelt.

    Raises:
        ValueError: one of them is there twice.
    """
    known = {word: split for split, words in SPLITS.items() for word in words}
    splits: dict[str, str] = {}
    for folder in folders_in(root):
        split = known.get(folder.lower())
        if split is not None and splits.setdefault(split, folder) != folder:
            raise ValueError(f"{root} has the folders {splits[split]} and {folder}; keep one of them, or rename one")
    return splits


def folders_in(folder: Path) -> list[str]:
    """The names of the folders that are not hidden, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
