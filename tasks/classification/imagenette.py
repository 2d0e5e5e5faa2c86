"""Imagenette, ten classes of ImageNet that are easily told apart, as folders or as a pair of zips."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tasks.classification.encoded import FileImages, ZipImages
from tasks.classification.folders import Listing, in_words, list_folder, list_zip
from tasks.classification.images import LabelledImages

CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""Folder -> name, in the order of the labels."""

_ADVICE = (
    "download imagenette2-160.tgz of https://github.com/fastai/imagenette and unpack it there, or put zips "
    "imagenette*_train.zip and imagenette*_val.zip there that hold <class>/<image>"
)


def read_imagenette(root: Path) -> tuple[LabelledImages, LabelledImages]:
    """The training and the validation images.

    Args:
        root: the folder with train/ and val/; or one that holds it, as imagenette2, imagenette2-160 or
            imagenette2-320, or the two zips.

    Raises:
        ValueError: there is none or more than one, or its classes are others.

    Source: Howard, Imagenette, 2019, https://github.com/fastai/imagenette.
    """
    if (root / "train").is_dir():
        return _folders(root)
    folders = sorted(path for path in root.glob("imagenette2*") if path.is_dir())
    zips = sorted(root.glob("imagenette*_train.zip"))
    found = [*folders, *zips]
    if not found:
        raise ValueError(f"data.root={root} holds no Imagenette; {_ADVICE}")
    if len(found) > 1:
        names = in_words((path.name for path in found), most=4)
        raise ValueError(f"data.root={root} holds Imagenette more than once ({names}); keep one, or name its folder")
    return _folders(found[0]) if folders else _zips(found[0])


def _folders(root: Path) -> tuple[LabelledImages, LabelledImages]:
    def read(split: str) -> LabelledImages:
        listing = _listed(root / split, list_folder)
        return FileImages(name, tuple(CLASSES.values()), listing.labels, folder=root / split, paths=listing.paths)

    name = f"Imagenette ({root.resolve().name})"
    return read("train"), read("val")


def _zips(train: Path) -> tuple[LabelledImages, LabelledImages]:
    def read(archive: Path) -> LabelledImages:
        listing = _listed(archive, list_zip)
        members = [os.fsdecode(path) for path in listing.paths.tolist()]
        return ZipImages(name, tuple(CLASSES.values()), listing.labels, archive=archive, members=members)

    stem = train.name.removesuffix("_train.zip")
    name = f"Imagenette ({stem})"
    return read(train), read(train.with_name(f"{stem}_val.zip"))


def _listed(place: Path, list_images: Callable[[Path], Listing]) -> Listing:
    if not place.exists():
        raise ValueError(f"{place} is missing; {_ADVICE}")
    listing = list_images(place)
    if listing.classes != tuple(CLASSES):
        wrong = in_words(sorted(set(listing.classes) ^ set(CLASSES)))
        raise ValueError(f"the classes in {place} are not those of Imagenette (too many or missing: {wrong})")
    return listing
