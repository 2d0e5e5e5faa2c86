"""Listing images that lie in a folder for each class, on disk or in a zip; no image is opened."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from tasks.pixels import SUFFIXES, tell_left_out

_ENDINGS = frozenset(os.fsencode(suffix) for suffix in SUFFIXES)
_KINDS = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))


@dataclass(frozen=True)
class Listing:
    """What lies in a folder of class folders.

    Attributes:
        classes: names of the class folders, in the order of the labels.
        labels: int64 [n].
        paths: of the images, as bytes below the folder or zip, sorted within a class: [n].
    """

    classes: tuple[str, ...]
    labels: Tensor
    paths: np.ndarray


def list_folder(folder: Path, classes: Sequence[str] | None = None) -> Listing:
    """The images in `folder/<class>/`, at any depth. Hidden files are passed over, and others with a warning.

    Args:
        folder: that holds the class folders.
        classes: which there may be, in the order of their labels; None: all that there are, sorted.

    Raises:
        ValueError: there is no class folder, one is empty, or one is not among `classes`.
    """
    if not folder.is_dir():
        raise ValueError(f"the folder {folder} {'is a file' if folder.exists() else 'does not exist'}")
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    found = sorted(entry.name for entry in entries if entry.is_dir())
    if not found:
        loose = next((entry.name for entry in entries if _is_image(os.fsencode(entry.name))), None)
        raise ValueError(_no_classes(folder, loose))
    others: list[bytes] = []
    links: list[bytes] = []
    images = {name: sorted(_below(os.fsencode(folder / name), others, links)) for name in found}
    tell_left_out(folder, map(os.fsdecode, others), len(links))
    return _listing(folder, images, classes)


def list_zip(archive: Path, classes: Sequence[str] | None = None) -> Listing:
    """The images of a zip whose members are `<class>/image.jpg`, in any folder; otherwise as `list_folder`.

    Raises:
        ValueError: also where the zip is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [info.filename for info in opened.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read the archive {archive}: {error}; download it again") from error
    found: dict[str, list[bytes]] = {}
    others: list[str] = []
    for name in sorted(names):
        parts = PurePosixPath(name).parts
        hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
        if len(parts) < 2 or hidden:
            continue
        if _is_image(os.fsencode(name)):
            found.setdefault(parts[-2], []).append(os.fsencode(name))
        else:
            others.append(name)
    tell_left_out(archive, others)
    if not found:
        raise ValueError(_no_classes(archive, None))
    return _listing(archive, dict(sorted(found.items())), classes)


def _listing(place: Path, found: Mapping[str, Sequence[bytes]], classes: Sequence[str] | None) -> Listing:
    for name, paths in found.items():
        if not paths:
            raise ValueError(f"the class '{name}' in {place} has no images ({_KINDS}); add some or remove its folder")
    if classes is not None and (unknown := [name for name in found if name not in set(classes)]):
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ValueError(
            f"{place} has the class '{unknown[0]}'{more}, which the training images lack; the same folder names are "
            "needed in both"
        )
    classes = tuple(found) if classes is None else tuple(classes)
    label = {name: number for number, name in enumerate(classes)}
    labels = torch.repeat_interleave(
        torch.tensor([label[name] for name in found]), torch.tensor([len(paths) for paths in found.values()])
    )
    return Listing(classes, labels, np.array([path for paths in found.values() for path in paths]))


def _below(folder: bytes, others: list[bytes], links: list[bytes], start: bytes | None = None) -> Iterator[bytes]:
    """Images below a class folder, their paths beginning with its name.

    `others` takes the other files, `links` those to folders, which could lead in circles, and to nothing.
    """
    prefix = os.path.basename(folder) if start is None else start
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            path = prefix + b"/" + entry.name
            if _is_image(entry.name) and entry.is_file():
                yield path
            elif entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, others, links, path)
            elif entry.is_file():
                others.append(path)
            elif entry.is_symlink():
                links.append(path)


def _is_image(name: bytes) -> bool:
    return name[name.rfind(b".") :].lower() in _ENDINGS


def _no_classes(place: Path, loose: str | None) -> str:
    if loose is None:
        return f"no images ({_KINDS}) in class folders in {place}; expected {place}/<class>/<image>"
    return (
        f"{place} holds images ({loose}, ...) but no folder for each class, which is how the validation images of "
        f"ImageNet come; move each into the folder of its class, as in {place}/<class>/{loose}"
    )


def in_words(names: Iterable[str], most: int = 3) -> str:
    """`a, b, c and 5 more`."""
    names = list(names)
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
