"""Finding the images of a set on disk, in the layouts that people keep them in::

any/folder/**/*.png                                   low-resolution images are made
Set5/HR/baby.png      Set5/LR_bicubic/X2/babyx2.png   the given low-resolution images are used
Set5/GTmod12/baby.png Set5/LRbicx2/baby.png
DIV2K/DIV2K_train_HR/0001.png        DIV2K/DIV2K_train_LR_bicubic/X2/0001x2.png
DIV2K/DIV2K_valid_HR/0801.png        DIV2K/DIV2K_valid_LR_bicubic/X2/0801x2.png
own/hr/clip/1.png     own/lr/clip/1.png               in any case; the folder hr may be given alone
                                     (or 0801 to 0900 inside the training folders)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.pixels import SUFFIXES, tell_left_out
from tasks.splits import folders_in

Split = Literal["train", "eval"]

LAST_DIV2K_TRAINING_IMAGE = 800
HIGH = re.compile("(.*_)?HR", re.IGNORECASE)
"""Names of folders of high-resolution images; those of low resolution have LR in the place of HR."""


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
    high = _high_folders(folder)
    if high:
        return [pair for own in high for pair in _paired(own, scale)]
    images = _images(folder)
    _check_no_low(images)
    return [Pair(path) for path in images]


def root_of_set(folder: Path) -> Path:
    """DIV2K of its training folder, as its validation images lie beside it; of another folder itself."""
    return folder.parent if folder.name == "DIV2K_train_HR" else folder


def places_of(folder: Path, scale: int) -> list[Path]:
    """Where all files of a set lie, given as for `find_pairs`."""
    folder = root_of_set(folder.resolve())
    beside = low_folder(folder, scale) if HIGH.fullmatch(folder.name) and folder.is_dir() else None
    return [folder] if beside is None else [folder, beside]


def low_folder(high: Path, scale: int) -> Path | None:
    """The folder beside `high` with its low-resolution images, whatever the case of its name; None: there is none."""
    prefix = "" if high.name.startswith("GTmod") else high.name[:-2]  # Flickr2K_HR: Flickr2K_LR_bicubic
    for names in ((f"{prefix}LR_bicubic", f"X{scale}"), (f"{prefix}LRbicx{scale}",), (f"{prefix}LR", f"X{scale}")):
        if (found := _inside(high.parent, *names)) is not None:
            return found
    found = _inside(high.parent, f"{prefix}LR")
    of_scales = found is not None and any(re.fullmatch("[xX][0-9]", name) for name in folders_in(found))
    return None if of_scales else found


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
    pairs = _paired(root / f"DIV2K_{name}_HR", scale)
    if name == "train":
        pairs = [pair for pair in pairs if _is_for_training(pair) == (split == "train")]
    if not pairs:
        wanted = "0801 to 0900" if split == "eval" else "0001 to 0800"
        raise ValueError(f"no DIV2K images {wanted} in {root / f'DIV2K_{name}_HR'}")
    return pairs


def _is_for_training(pair: Pair) -> bool:
    stem = pair.high.stem
    return not stem.isdecimal() or int(stem) <= LAST_DIV2K_TRAINING_IMAGE


def _high_folders(folder: Path) -> list[Path]:
    """The folder itself or those in it that by their names hold high-resolution images alone, if there are any."""
    if HIGH.fullmatch(folder.name):
        return [folder]
    names = folders_in(folder)
    alone = [name for name in names if name.lower() == "hr" or name.startswith("GTmod")]
    with_low = [name for name in names if HIGH.fullmatch(name) and _has_low(names, name)]
    return [folder / name for name in alone[:1] or with_low]


def _has_low(names: Iterable[str], high: str) -> bool:
    return any(name.lower().startswith(f"{high[:-2]}LR".lower()) for name in names)


def _inside(folder: Path, *names: str) -> Path | None:
    """A folder in a folder, and so on, whatever the case of their names."""
    for name in names:
        found = next((own for own in folders_in(folder) if own.lower() == name.lower()), None)
        if found is None:
            return None
        folder = folder / found
    return folder


def _check_no_low(images: Iterable[Path]) -> None:
    """Raise ValueError where images of both resolutions lie side by side."""
    ends: dict[tuple[Path, str, str], Path] = {}
    for path in images:
        name, end = path.stem[:-3], path.stem[-3:].upper()
        ends[path.parent, name, end] = path
        high, low = (ends.get((path.parent, name, which)) for which in ("_HR", "_LR"))
        if high is not None and low is not None:
            raise ValueError(
                f"{high} and {low.name} are one image in two resolutions, and both would be taken for originals; "
                "move them into folders HR and LR"
            )


def _paired(high: Path, scale: int) -> list[Pair]:
    """Images of `high` with their namesakes in the folder of low-resolution images, if there is one."""
    images, low = _images(high), low_folder(high, scale)
    if low is None:
        return [Pair(path) for path in images]
    here: dict[tuple[Path, str], Path] = {}
    anywhere: dict[str, list[Path]] = {}
    for path in _images(low):
        here[path.relative_to(low).parent, path.stem] = path
        anywhere.setdefault(path.stem, []).append(path)
    pairs, taken = [], dict[Path, Path]()
    for path in images:
        inside, stems = path.relative_to(high).parent, (f"{path.stem}x{scale}", path.stem)
        same = [here[inside, stem] for stem in stems if (inside, stem) in here]
        found = same or [other for stem in stems for other in anywhere.get(stem, ())]
        if not found:
            raise ValueError(f"{low} has no {path.stem}x{scale} or {path.stem} for {path}")
        if len(found) > len(same or [0]):
            raise ValueError(f"{found[0]} or {found[1]} may belong to {path}; put them into the same subfolders")
        if (first := taken.setdefault(found[0], path)) != path:
            raise ValueError(f"{found[0]} may belong to {first} or {path}; put them into the same subfolders")
        pairs.append(Pair(path, found[0]))
    return pairs


def _images(folder: Path) -> list[Path]:
    def is_seen(path: Path) -> bool:
        return not any(part.startswith(".") for part in path.relative_to(folder).parts)

    found = [path for path in sorted(folder.rglob("*")) if is_seen(path)]
    files = [path for path in found if path.is_file()]
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not paths:
        kinds = ", ".join(sorted(s[1:] for s in SUFFIXES))
        raise ValueError(f"no images ({kinds}) in {folder} or below it")
    links = sum(path.is_symlink() and not path.is_file() for path in found)
    tell_left_out(folder, (path for path in files if path.suffix.lower() not in SUFFIXES), links)
    return paths
