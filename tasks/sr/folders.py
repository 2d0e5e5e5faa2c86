"""Finding the images of a set on disk, in the layouts that people keep them in::

any/folder/**/*.png                                   low-resolution images are made
Set5/HR/baby.png      Set5/LR_bicubic/X2/babyx2.png   the given low-resolution images are used
Set5/GTmod12/baby.png Set5/LRbicx2/baby.png
DIV2K/DIV2K_train_HR/0001.png        DIV2K/DIV2K_train_LR_bicubic/X2/0001x2.png
DIV2K/DIV2K_valid_HR/0801.png        DIV2K/DIV2K_valid_LR_bicubic/X2/0801x2.png
                                     (or 0801 to 0900 inside the training folders)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.pixels import SUFFIXES, tell_left_out

Split = Literal["train", "eval"]

LAST_DIV2K_TRAINING_IMAGE = 800


@dataclass(frozen=True)
class Pair:
    """One image: its high-resolution file and, where the set ships one, its low-resolution file."""

    high: Path
    low: Path | None = None


def find_pairs(folder: Path, scale: int, split: Split) -> list[Pair]:
    """The images of a set, in order of their names.

    Args:
        folder: any folder of images, or the root of a layout above.
        scale: which low-resolution images are meant.
        split: of DIV2K, images 1 to 800 ("train") or the rest ("eval"); of other folders, all.

    Raises:
        ValueError: the folder is missing or holds no image, or a low-resolution image is missing.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"the image folder {folder} {kind}; give a folder of images, or the root of DIV2K")
    folder = root_of_set(folder.resolve())
    if (folder / "DIV2K_train_HR").is_dir():
        return _div2k(folder, scale, split)
    for high in (folder / "HR", *sorted(folder.glob("GTmod*"))):
        if high.is_dir():
            return _paired(high, (folder / "LR_bicubic" / f"X{scale}", folder / f"LRbicx{scale}"), scale)
    return [Pair(path) for path in _images(folder)]


def root_of_set(folder: Path) -> Path:
    """Where the low-resolution images of a folder of DIV2K lie beside it; another folder is its own."""
    return folder.parent if folder.name == "DIV2K_train_HR" else folder


def hold_out(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Split a plain folder: every tenth image (at least one) is held out for evaluation, the rest trains.

    Raises:
        ValueError: there is only one image.
    """
    if len(pairs) < 2:
        raise ValueError(
            f"only one image ({pairs[0].high}); training and evaluation need one each, or give data.eval_sets"
        )
    held = [p for i, p in enumerate(pairs) if i % 10 == 0]
    return [p for i, p in enumerate(pairs) if i % 10 != 0], held


def without(pairs: Iterable[Pair], others: Iterable[Pair]) -> list[Pair]:
    """The pairs whose image is not among the others."""
    excluded = {pair.high.resolve() for pair in others}
    return [pair for pair in pairs if pair.high.resolve() not in excluded]


def _div2k(root: Path, scale: int, split: Split) -> list[Pair]:
    name = "valid" if split == "eval" and (root / "DIV2K_valid_HR").is_dir() else "train"
    low = root / f"DIV2K_{name}_LR_bicubic" / f"X{scale}"
    pairs = _paired(root / f"DIV2K_{name}_HR", (low,), scale)
    if name == "train":
        pairs = [pair for pair in pairs if _is_for_training(pair) == (split == "train")]
    if not pairs:
        wanted = "0801 to 0900" if split == "eval" else "0001 to 0800"
        raise ValueError(f"no DIV2K images {wanted} in {root / f'DIV2K_{name}_HR'}")
    return pairs


def _is_for_training(pair: Pair) -> bool:
    stem = pair.high.stem
    return not stem.isdecimal() or int(stem) <= LAST_DIV2K_TRAINING_IMAGE


def _paired(high: Path, low_folders: Sequence[Path], scale: int) -> list[Pair]:
    """Images of `high` with their namesakes in the first of the folders that exists."""
    images = _images(high)
    low_folder = next((f for f in low_folders if f.is_dir()), None)
    if low_folder is None:
        return [Pair(path) for path in images]
    low = {path.stem: path for path in _images(low_folder)}
    pairs = []
    for path in images:
        found = low.get(f"{path.stem}x{scale}") or low.get(path.stem)
        if found is None:
            raise ValueError(f"{low_folder} has no {path.stem}x{scale} or {path.stem} for {path}")
        pairs.append(Pair(path, found))
    return pairs


def _images(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if not path.name.startswith(".") and path.is_file())
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not paths:
        kinds = ", ".join(sorted(s[1:] for s in SUFFIXES))
        raise ValueError(f"no images ({kinds}) in {folder} or below it")
    tell_left_out(folder, (path for path in files if path.suffix.lower() not in SUFFIXES))
    return paths
