"""Annotations in COCO's format: read and checked once, so that what is wrong is told in one line before training."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

Annotation = Mapping[str, Any]
LISTS = ("images", "annotations", "categories")


class Annotations:
    """The objects in a set of images.

    Args:
        content: as the JSON file has it: images, annotations, categories.
        where: the file, for messages.
        head: boxes, masks or keypoints: what each annotation must have.

    Attributes:
        coco: the index that pycocotools evaluates with.
        images: in the order of their ids; `classes`: names of the categories, in the order of their ids.

    Raises:
        ValueError: something is missing or impossible; names the annotation.
    """

    def __init__(self, content: Mapping[str, Any], where: str, head: str = "boxes") -> None:
        for key in LISTS:
            if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
                raise ValueError(f"{where}: annotations in COCO's format have lists of {', '.join(LISTS)}; no '{key}'")
        self.where, self.head = where, head
        images = {image["id"]: image for image in content["images"]}
        self.categories = sorted(category["id"] for category in content["categories"])
        for annotation in content["annotations"]:
            self._check(annotation, images)
        if all(annotation.get("iscrowd", 0) for annotation in content["annotations"]):
            raise ValueError(f"{where}: there is no annotation of an object; nothing can be learned or scored")
        self.images: Sequence[Mapping[str, Any]] = [images[key] for key in sorted(images)]
        self.coco = indexed({**content, "annotations": list(map(_complete, content["annotations"]))})
        self.classes = [str(self.coco.cats[key]["name"]) for key in self.categories]
        self.label = {category: label for label, category in enumerate(self.categories, start=1)}
        self.keypoints = self._keypoints() if head == "keypoints" else []

    def of(self, image: Mapping[str, Any]) -> list[Annotation]:
        """The annotations of an image."""
        found: list[Annotation] = self.coco.imgToAnns.get(image["id"], [])
        return found

    def swapped(self) -> list[int]:
        """For each keypoint the one that takes its place in a mirror: left_eye's is right_eye."""
        sides = {"left": "right", "right": "left"}
        mirrored = ["_".join(sides.get(word, word) for word in name.split("_")) for name in self.keypoints]
        return [self.keypoints.index(name) if name in self.keypoints else i for i, name in enumerate(mirrored)]

    def _keypoints(self) -> list[str]:
        """The names of the keypoints, the same for every category."""
        named = {tuple(category.get("keypoints", ())) for category in self.coco.cats.values()}
        if len(named) != 1 or not (names := named.pop()):
            raise ValueError(f"{self.where}: task.head=keypoints needs categories that name the same keypoints")
        return list(names)

    def _check(self, annotation: Annotation, images: Mapping[Any, Any]) -> None:
        for fault in self._faults(annotation, images):
            raise ValueError(f"{self.where}: annotation {annotation.get('id')} {fault}")

    def _faults(self, annotation: Annotation, images: Mapping[Any, Any]) -> Iterator[str]:
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if image not in images:
            yield f"is of image {image}, which is none of the {len(images)} there: are they of other images?"
        if category not in self.categories:
            yield f"is of category {category}, which the categories do not have"
        box = annotation.get("bbox")
        if not _numbers(box, 4):
            yield f"has the box {box}; a box is four finite numbers: left, top, width, height"
        if self.head == "masks" and not annotation.get("segmentation"):
            yield "has no segmentation, which task.head=masks needs"
        if self.head == "keypoints":
            points = annotation.get("keypoints")
            if not isinstance(points, list) or len(points) % 3 or not _numbers(points, len(points)):
                yield "has no keypoints as x, y, visibility in a row, which task.head=keypoints needs"


def read_annotations(path: Path, head: str = "boxes") -> Annotations:
    """The annotations of a file.

    Raises:
        ValueError: it cannot be read, or is not as it should be.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {getattr(error, 'strerror', None) or error}") from None
    return Annotations(content, str(path), head)


def indexed(content: Mapping[str, Any]) -> COCO:
    """The index of pycocotools, which else would tell of its progress."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dict(content)
        coco.createIndex()
    return coco


def _complete(annotation: Annotation) -> dict[str, Any]:
    """What pycocotools asks for and tools of other makers leave out."""
    _, _, width, height = annotation["bbox"]
    seen = sum(visibility > 0 for visibility in annotation.get("keypoints", ())[2::3])
    return {"iscrowd": 0, "area": width * height, "num_keypoints": seen, **annotation}


def _numbers(given: object, count: int) -> bool:
    return (
        isinstance(given, list | tuple)
        and len(given) == count
        and all(isinstance(value, int | float) and math.isfinite(value) for value in given)
    )
