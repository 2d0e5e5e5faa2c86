"""What is wrong in annotations is told in one line that names the entry, before anything is trained."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from tasks.detection.annotations import Annotations
from tests.tasks.detection.conftest import annotated, content

BOX = (1, 2, 10, 20)
POLYGON = [[1.0, 2.0, 11.0, 2.0, 11.0, 22.0]]


def refused(said: Any, head: str = "boxes") -> str:
    with pytest.raises(ValueError) as told:
        Annotations(said, "test.json", head)
    assert str(told.value).startswith("test.json: ") and "\n" not in str(told.value)
    return str(told.value).removeprefix("test.json: ")


def without(entry: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != key}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 9}, "has image_id 9; it must be the id of one of the 1 images; are they annotations of other"),
        ({"image_id": [1]}, "has image_id [1]; it must be the id of one of the 1 images"),
        ({"category_id": 5}, "has category_id 5; it must be the id of a category"),
        ({"bbox": [1, 2, math.nan, 3]}, "has bbox [1, 2, nan, 3]; it must be four finite numbers: left, top, width"),
        ({"bbox": [1, 2, 3]}, "has bbox [1, 2, 3]; it must be four"),
        ({"bbox": [1, 2, -3, 4]}, "has bbox [1, 2, -3, 4]; it must be four"),
        ({"bbox": None}, "has bbox None; it must be four"),
        ({"iscrowd": None}, "has iscrowd None; it must be 0 or 1"),
        ({"area": None}, "has area None; it must be a finite number, not below 0"),
        ({"area": "12"}, "has area '12'; it must be a finite number"),
        ({"area": math.nan}, "has area nan; it must be a finite number"),
    ],
)
def test_wrong_annotations_are_named(changes: dict[str, Any], message: str) -> None:
    wrong = content(*annotated(BOX), *annotated(BOX, **changes))
    assert refused(wrong).startswith("annotations[1] " + message)


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox"])
def test_missing_values_are_named(key: str) -> None:
    assert refused(content(without(annotated(BOX)[0], key))).startswith(f"annotations[0] has no {key}; it must be ")


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("images", {"id": None}, "images[1] has id None; it must be a whole number"),
        ("images", {"id": "2"}, "images[1] has id '2'; it must be a whole number"),
        ("images", {"width": "64"}, "images[1] has width '64'; it must be a whole number of pixels"),
        ("images", {"height": 0}, "images[1] has height 0; it must be a whole number of pixels"),
        ("images", {"file_name": 3}, "images[1] has file_name 3; it must be text"),
        ("images", {"id": 1}, "2 images have the id 1; each must have its own"),
        ("categories", {"id": 3}, "2 categories have the id 3; each must have its own"),
        ("categories", {"id": None}, "categories[1] has id None; it must be a whole number"),
        ("categories", {"name": None}, "categories[1] has name None; it must be text"),
    ],
)
def test_wrong_images_and_categories_are_named(name: str, wrong: dict[str, Any], message: str) -> None:
    said = content(*annotated(BOX), images=2)
    said[name][1] |= wrong
    assert refused(said) == message


@pytest.mark.parametrize(("name", "key"), [("images", "width"), ("images", "file_name"), ("categories", "name")])
def test_missing_keys_of_images_and_categories_are_named(name: str, key: str) -> None:
    said = content(*annotated(BOX))
    said[name][0] = without(said[name][0], key)
    assert refused(said).startswith(f"{name}[0] has no {key}; it must be ")


def test_what_is_no_entry_is_told() -> None:
    assert refused({"images": []}).startswith("annotations in COCO's format have lists")
    assert refused([]).startswith("annotations in COCO's format have lists")
    null = content(*annotated(BOX)) | {"annotations": [None]}
    assert refused(null).startswith("annotations[0] is None; it must have image_id, category_id, bbox")


def compressed(height: int, width: int) -> str:
    mask = np.zeros((height, width), dtype=np.uint8, order="F")
    mask[5:20, 10:30] = 1
    return str(rle.encode(mask)["counts"].decode())


@pytest.mark.parametrize(
    "segmentation",
    [
        [], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, math.nan, 4, 5, 6]], [[1, 2, 1e9, 4, 5, 6]],
        [[1, 2, "3", 4, 5, 6]], [1, 2, 3, 4, 5, 6], "text", None, {"counts": [0, 2400]},
        {"size": [60, 40], "counts": [0, 2400]}, {"size": [40, 60], "counts": [0, 2399]},
        {"size": [40, 60], "counts": [-1, 2401]}, {"size": [40, 60], "counts": None}, {"size": [40, 60]},
        {"size": [40, 60], "counts": compressed(40, 61)}, {"size": [40, 60], "counts": compressed(40, 60)[:-4]},
        {"size": [40, 60], "counts": compressed(40, 60)[:-1]}, {"size": [40, 60], "counts": ""},
    ],
)  # fmt: skip
def test_masks_that_pycocotools_cannot_draw_are_refused(segmentation: Any) -> None:
    told = refused(content(*annotated(BOX, segmentation=segmentation)), "masks")
    assert told.startswith("annotations[0] has segmentation ") and "polygons of three points or more" in told


@pytest.mark.parametrize("shape", [(40, 60), (300, 200)])
def test_run_lengths_of_any_form_are_taken(shape: tuple[int, int]) -> None:
    masks = np.random.default_rng(0).random((20, *shape)) < np.linspace(0, 1, 20)[:, None, None]
    forms = [rle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode() for mask in masks]
    found = [annotated(BOX, segmentation={"size": list(shape), "counts": counts})[0] for counts in forms]
    said = content(*found, *annotated(BOX, segmentation=POLYGON), height=shape[0], width=shape[1])
    read = Annotations(said, "test.json", "masks")
    for annotation, mask in zip(read.coco.dataset["annotations"], masks, strict=False):
        assert (read.coco.annToMask(annotation) == mask).all()


@pytest.mark.parametrize("keypoints", [None, [], [1, 2, 2], [1, 2, 2] * 3, [1, 2, 2, math.nan, 2, 2]])
def test_each_annotation_has_the_keypoints_of_its_category(keypoints: Any) -> None:
    said = content(*annotated(BOX, keypoints=keypoints))
    said["categories"] = [{"id": 3, "name": "cat", "keypoints": ["nose", "tail"]}]
    told = refused(said, "keypoints")
    assert told.startswith("annotations[0] has keypoints ") and "x, y, visibility of each keypoint" in told


def test_categories_name_the_same_keypoints() -> None:
    said = content(*annotated(BOX, keypoints=[1, 2, 2]))
    assert refused(said, "keypoints").startswith("categories[0] has no keypoints; it must be the names of the keypoint")
    for category in said["categories"]:
        category["keypoints"] = [category["name"]]
    assert refused(said, "keypoints") == "task.head=keypoints needs categories that name the same keypoints"
