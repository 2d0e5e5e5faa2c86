"""Which images train and which are scored, for each kind of data. What `data.root` is to hold:

shapes   nothing; they are drawn
coco     train2017, val2017 and annotations, as https://cocodataset.org has them
folder   train and val, under any of the names in `tasks.splits`, with their annotations in COCO's format: train.json
         and val.json beside them or in annotations, or a _annotations.coco.json in each
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.detection.annotations import Annotations, read_annotations
from tasks.detection.images import DetectionImages, reader
from tasks.detection.settings import DetectionSettings
from tasks.detection.shapes import shapes
from tasks.splits import splits_in

DOWNLOADS = "from https://cocodataset.org/#download"
TRAINED, HELD_OUT = 0, 1  # seeds of the drawn images


@dataclass(frozen=True)
class Source:
    """Images to train on and images to score on, never one in both.

    name: of the data set, for captions.
    """

    name: str
    train: DetectionImages
    evaluation: DetectionImages


def find_source(settings: DetectionSettings) -> Source:
    """The images that the settings ask for; none is opened.

    Raises:
        ValueError: something is missing or does not fit; says what, and where it is to be had.
    """
    s = settings
    if s.data == "shapes":
        train, evaluation = (
            shapes(name, seed=seed, count=count, side=s.side, head=s.head, cache_gb=s.cache_gb)
            for name, seed, count in (("train", TRAINED, s.images), ("held-out", HELD_OUT, s.held_out))
        )
        return Source("shapes", train, evaluation)
    root = Path(s.root).expanduser()
    if not root.is_dir():
        raise ValueError(
            f"data.root={s.root} is not a folder; " + (DOWNLOADS if s.data == "coco" else "see data=folder")
        )
    find, name = (_coco, "COCO 2017") if s.data == "coco" else (_folder, root.resolve().name)
    train, evaluation = (find(root, part, s) for part in ("train", "val"))
    _check_alike(train.annotations, evaluation.annotations)
    return Source(name, train, evaluation)


def _coco(root: Path, part: str, settings: DetectionSettings) -> DetectionImages:
    annotations, images = settings.annotations(root, f"{part}2017"), root / f"{part}2017"
    for place, file in ((annotations, "annotations_trainval2017.zip"), (images, f"{part}2017.zip")):
        if not place.exists():
            raise ValueError(f"data.root={root} has no {place.relative_to(root)}: unpack {file} there, {DOWNLOADS}")
    return _images(f"{part}2017", annotations, images, settings)


def _folder(root: Path, part: str, settings: DetectionSettings) -> DetectionImages:
    tried = list(_places(root, part))
    for file, images in tried:
        if file.is_file() and images.is_dir():
            return _images(part, file, images, settings)
    names = ", ".join(str(file.relative_to(root)) for file, _ in tried)
    raise ValueError(f"data.root={root} needs the folder {part} and its annotations in COCO's format: one of {names}")


def _places(root: Path, part: str) -> Iterator[tuple[Path, Path]]:
    name = splits_in(root).get(part, part)
    for file in (f"{name}.json", f"annotations/{name}.json", f"{name}/_annotations.coco.json"):
        yield root / file, root / name


def _images(name: str, annotations: Path, folder: Path, settings: DetectionSettings) -> DetectionImages:
    read = read_annotations(annotations, settings.head)
    wanted = [image["file_name"] for image in read.images]
    listed = [inside for inside in {*map(os.path.dirname, wanted)} if (folder / inside).is_dir()]
    there = {os.path.join(inside, file) for inside in listed for file in os.listdir(folder / inside)}
    missing = [file for file in wanted if file not in there]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of the {len(read.images)} images of {annotations.name}, "
            f"{missing[0]} for one; are they annotations of other images?"
        )
    return DetectionImages(name, read, reader(folder), cache_gb=settings.cache_gb)


def _check_alike(train: Annotations, evaluation: Annotations) -> None:
    """Raise ValueError unless both have the same categories, under the same numbers."""
    for first, second in ((train, evaluation), (evaluation, train)):
        for category, name in zip(first.categories, first.classes, strict=True):
            if second.coco.cats.get(category, {}).get("name") != name:
                raise ValueError(f"category {category} of {first.where}, '{name}', is missing in {second.where}")
    if train.keypoints != evaluation.keypoints:
        raise ValueError(f"{train.where} and {evaluation.where} name different keypoints")
