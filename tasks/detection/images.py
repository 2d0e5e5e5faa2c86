"""Images with the objects in them, as networks learn them: boxes, labels, masks and keypoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from tasks.detection.annotations import Annotation, Annotations
from tasks.pixels import UNREADABLE, pixels

Item = tuple[Tensor, dict[str, Tensor]]
"""uint8 [3, H, W], and its target."""
SMALLEST = 1.0  # side of a box that can be learned, in pixels


class DetectionImages:
    """A named set of images and their annotations. Decoded items are kept while they fit into `cache_gb`.

    Args:
        name: for tables and messages.
        annotations: of the images.
        read: makes the pixels of an image, uint8 [3, H, W], from its entry in the annotations.
        cache_gb: memory for decoded images and targets, in GB.
    """

    def __init__(
        self,
        name: str,
        annotations: Annotations,
        read: Callable[[Mapping[str, Any]], Tensor],
        *,
        cache_gb: float = 1.0,
    ) -> None:
        self.name, self.annotations = name, annotations
        self._read, self._room = read, cache_gb * 1e9
        self._cache: dict[int, Item] = {}

    def __len__(self) -> int:
        return len(self.annotations.images)

    def __getitem__(self, index: int) -> Item:
        if index in self._cache:
            return self._cache[index]
        image = self.annotations.images[index]
        item = self._read(image), self._target(image)
        size = sum(t.numel() * t.element_size() for t in (item[0], *item[1].values()))
        if size <= self._room:
            self._cache[index], self._room = item, self._room - size
        return item

    def pixels(self, index: int) -> Tensor:
        """An image alone."""
        return self._cache[index][0] if index in self._cache else self._read(self.annotations.images[index])

    def learnable(self) -> list[int]:
        """The images with an object that can be learned; the others are left out of training, as is usual."""
        return [i for i, image in enumerate(self.annotations.images) if any(self._boxes(image))]

    def _boxes(self, image: Mapping[str, Any]) -> list[tuple[Annotation, list[float]]]:
        """The objects of an image that can be learned, and their boxes within it; crowds cannot."""
        found = []
        for annotation in self.annotations.of(image):
            left, top, width, height = annotation["bbox"]
            right, bottom = min(left + width, image["width"]), min(top + height, image["height"])
            box = [max(left, 0.0), max(top, 0.0), right, bottom]
            wide_enough = min(right - box[0], bottom - box[1]) >= SMALLEST
            shown = self.annotations.head != "keypoints" or any(annotation["keypoints"][2::3])
            if wide_enough and shown and not annotation["iscrowd"]:
                found.append((annotation, box))
        return found

    def _target(self, image: Mapping[str, Any]) -> dict[str, Tensor]:
        """boxes [n, 4], labels int64 [n], and masks uint8 [n, H, W] or keypoints [n, k, 3]: x, y, whether labelled."""
        own, found = self.annotations, self._boxes(image)
        target = {
            "boxes": torch.tensor([box for _, box in found], dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor([own.label[a["category_id"]] for a, _ in found], dtype=torch.int64),
        }
        if own.head == "masks":
            masks = [own.coco.annToMask(annotation) for annotation, _ in found]
            empty = np.zeros((0, image["height"], image["width"]), dtype=np.uint8)
            target["masks"] = torch.from_numpy(np.stack(masks) if masks else empty)
        if own.head == "keypoints":
            points = torch.tensor([a["keypoints"] for a, _ in found], dtype=torch.float32)
            points = points.reshape(len(found), len(own.keypoints), 3)
            points[..., :2] += 0.5  # an annotation names a pixel; its middle is meant
            points[..., 2].clamp_(max=1)
            target["keypoints"] = points
        return target


def mirrored(item: Item, swapped: list[int]) -> Item:
    """An image and its target, left and right exchanged; `swapped`: see `Annotations.swapped`."""
    image, target = item
    width, changed = image.shape[-1], dict(target)
    left, top, right, bottom = target["boxes"].unbind(1)
    changed["boxes"] = torch.stack([width - right, top, width - left, bottom], 1)
    if "masks" in target:
        changed["masks"] = target["masks"].flip(-1)
    if "keypoints" in target:
        points = target["keypoints"][:, swapped].clone()
        points[..., 0] = width - points[..., 0]
        changed["keypoints"] = points
    return image.flip(-1), changed


def reader(folder: Path) -> Callable[[Mapping[str, Any]], Tensor]:
    """Reads the files of a folder; grey images become RGB."""
    return lambda image: read_image(folder / image["file_name"], image["height"], image["width"])


def read_image(path: Path, height: int, width: int) -> Tensor:
    """uint8 [3, height, width]. Annotations are of the pixels as they are stored, unless only the upright image fits.

    Raises:
        ValueError: it cannot be read, or has another size than the annotations say.
    """
    try:
        with Image.open(path) as file:
            if file.size == (width, height):
                file.getexif().pop(ExifTags.Base.Orientation, None)  # pycocotools knows nothing of EXIF, either
            found = pixels(file)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if found.shape[:2] != (height, width):
        size = f"{found.shape[1]} x {found.shape[0]}"
        raise ValueError(f"{path} is {size}, and its annotations are of an image of {width} x {height}")
    image = torch.from_numpy(found)
    return image.expand(3, -1, -1) if image.dim() == 2 else image.permute(2, 0, 1)
