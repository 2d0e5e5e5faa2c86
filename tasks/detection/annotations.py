"""Annotations in COCO's format: read and checked once, so that what is wrong is told in one line before training."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from tasks.detection.schema import check

Annotation = Mapping[str, Any]


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
        ValueError: something is missing or impossible; names the entry.
    """

    def __init__(self, content: Mapping[str, Any], where: str, head: str = "boxes") -> None:
        check(content, where, head)
        if all(annotation.get("iscrowd", 0) for annotation in content["annotations"]):
            raise ValueError(f"{where}: there is no annotation of an object; nothing can be learned or scored")
        self.where, self.head = where, head
        self.images: Sequence[Mapping[str, Any]] = sorted(content["images"], key=itemgetter("id"))
        self.categories = sorted(category["id"] for category in content["categories"])
        complete = [self._complete(number, one) for number, one in enumerate(content["annotations"], start=1)]
        self.coco = indexed({**content, "annotations": complete})
        self.classes = [self.coco.cats[key]["name"] for key in self.categories]
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
        named = {tuple(category["keypoints"]) for category in self.coco.cats.values()}
        if len(named) != 1:
            raise ValueError(f"{self.where}: task.head=keypoints needs categories that name the same keypoints")
        return list(named.pop())

    def _complete(self, number: int, annotation: Annotation) -> dict[str, Any]:
        """What pycocotools asks for and tools of other makers leave out; the number, as it takes id 0 for no object."""
        _, _, width, height = annotation["bbox"]
        complete = {"iscrowd": 0, "area": width * height, **annotation, "id": number}
        if self.head == "keypoints":
            complete["num_keypoints"] = sum(visibility > 0 for visibility in annotation["keypoints"][2::3])
        return complete


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
