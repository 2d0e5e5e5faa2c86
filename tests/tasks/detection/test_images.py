"""Annotations and images become what networks learn, as pycocotools reads them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from tasks.detection.annotations import Annotations
from tasks.detection.images import DetectionImages, mirrored, read_image
from tasks.detection.settings import DetectionSettings
from tasks.detection.sources import find_source
from tasks.detection.task import Detection
from tests.tasks.detection.conftest import MakeFolder, annotated, content

COCO = os.environ.get("COCO", "")
"""A folder with some images of COCO 2017, laid out as the whole: the tests of real images run where it is given."""


def images(said: dict[str, Any], head: str = "boxes") -> DetectionImages:
    return DetectionImages("test", Annotations(said, "test.json", head), lambda image: torch.zeros(3, 40, 60).byte())


def test_crowds_and_boxes_without_area_are_not_learned() -> None:
    good = annotated((1, 2, 10, 20))
    bad = annotated((1, 2, 0, 20), (70, 2, 5, 5), (1, 2, 0.4, 0.4), image=2)
    crowd = annotated((0, 0, 30, 30), image=3, iscrowd=1)
    data = images(content(*good, *bad, *crowd, images=4))
    assert data.learnable() == [0]
    assert [len(data[n][1]["boxes"]) for n in range(4)] == [1, 0, 0, 0]
    assert data[1][1]["boxes"].shape == (0, 4)
    assert data[0][1]["labels"].tolist() == [1], "category 3 is the first"


def test_boxes_end_at_the_rim_of_the_image() -> None:
    data = images(content(*annotated((-5, 30, 20, 30))))
    assert data[0][1]["boxes"].tolist() == [[0, 30, 15, 40]]


def test_polygons_and_run_lengths_give_the_masks_of_pycocotools() -> None:
    mask = np.zeros((40, 60), dtype=np.uint8, order="F")
    mask[5:20, 10:30] = 1
    encoded = rle.encode(mask)
    polygon = [[10.0, 5.0, 30.0, 5.0, 30.0, 20.0, 10.0, 20.0]]
    ends = np.flatnonzero(np.diff(mask.ravel(order="F"))) + 1  # columns one below the other
    counts = np.diff([0, *ends, mask.size]).tolist()
    forms = [polygon, *({"size": [40, 60], "counts": c} for c in (encoded["counts"].decode(), counts))]
    for form in forms:
        data = images(content(*annotated((10, 5, 20, 15), segmentation=form)), "masks")
        assert torch.equal(data[0][1]["masks"][0], torch.from_numpy(np.ascontiguousarray(mask)))


def test_a_mirrored_mirror_image_is_the_image() -> None:
    task = Detection(DetectionSettings(**SHAPES | {"head": "keypoints"}))
    swapped = task._train.annotations.swapped()
    names = task.keypoints
    item = task._train[task._learnable[0]]
    once = mirrored(item, swapped)
    assert names[swapped[names.index("left_wrist")]] == "right_wrist"
    assert not torch.equal(once[0], item[0])
    left = names.index("left_wrist"), names.index("right_wrist")
    assert torch.equal(once[1]["keypoints"][:, left[0], 0], 64 - item[1]["keypoints"][:, left[1], 0])
    twice = mirrored(once, swapped)
    assert torch.equal(twice[0], item[0])
    for key, value in item[1].items():
        assert torch.equal(twice[1][key], value), key


SHAPES: dict[str, Any] = {
    "data": "shapes", "model": "resnet18", "start": "scratch", "sides": (64,), "longest": 64, "side": 64, "images": 12,
    "held_out": 4,
}  # fmt: skip


def test_grey_and_turned_images_are_read_as_their_annotations_mean_them(tmp_path: Path) -> None:
    grey = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    Image.fromarray(grey).save(tmp_path / "turned.png", exif=exif)
    as_stored = read_image(tmp_path / "turned.png", 40, 60)
    assert torch.equal(as_stored, torch.from_numpy(grey).expand(3, -1, -1))
    upright = read_image(tmp_path / "turned.png", 60, 40)
    assert torch.equal(upright, as_stored.rot90(-1, (1, 2)))
    with pytest.raises(ValueError, match=r"turned.png is .* and its annotations are of an image of 50 x 40"):
        read_image(tmp_path / "turned.png", 40, 50)


BOX = (1, 2, 10, 20)


@pytest.mark.parametrize("wrong", [content(), content(*annotated(BOX, iscrowd=1))])
def test_annotations_without_an_object_are_refused(wrong: dict[str, Any], folder: MakeFolder) -> None:
    settings = DetectionSettings(data="folder", root=str(folder(wrong)), start="scratch")
    with pytest.raises(ValueError, match=r"train.json: there is no annotation of an object"):
        find_source(settings)


def test_annotations_of_other_images_are_refused(folder: MakeFolder) -> None:
    root = folder(content(*annotated(BOX)))
    (root / "val" / "1.png").rename(root / "val" / "other.png")
    with pytest.raises(ValueError, match=r"val lacks 1 of the 1 images of val.json, 1.png for one"):
        find_source(DetectionSettings(data="folder", root=str(root), start="scratch"))


def test_images_may_lie_in_folders_of_their_own(folder: MakeFolder) -> None:
    said = content(*annotated(BOX), images=2)
    said["images"][0]["file_name"] = "sub/1.png"
    root = folder(said)
    source = find_source(DetectionSettings(data="folder", root=str(root), start="scratch"))
    assert source.train[0][0].shape == (3, 40, 60)
    (root / "val" / "sub" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"val lacks 1 of the 2 images of val.json, sub/1.png for one"):
        find_source(DetectionSettings(data="folder", root=str(root), start="scratch"))


def test_folders_of_splits_are_known_by_any_usual_name(folder: MakeFolder) -> None:
    root = folder(content(*annotated(BOX)))
    for part, name in (("train", "Training"), ("val", "validation")):
        (root / part).rename(root / name)
        (root / f"{part}.json").rename(root / name / "_annotations.coco.json")
    source = find_source(DetectionSettings(data="folder", root=str(root), start="scratch"))
    assert (source.train[0][0].shape, len(source.evaluation)) == ((3, 40, 60), 1)


def test_categories_must_be_the_same_in_both_sets(folder: MakeFolder) -> None:
    other = content(*annotated(BOX))
    other["categories"] = other["categories"][:1]
    settings = DetectionSettings(data="folder", root=str(folder(content(*annotated(BOX)), other)), start="scratch")
    with pytest.raises(ValueError, match=r"category 7 of .*train.json, 'dog', is missing in .*val.json"):
        find_source(settings)


def test_heads_need_their_annotations(folder: MakeFolder) -> None:
    root = str(folder(content(*annotated(BOX))))
    for head, needs in (("masks", "has no segmentation"), ("keypoints", "has no keypoints")):
        with pytest.raises(ValueError, match=f"{needs}; it must be .*, for task.head={head}"):
            find_source(DetectionSettings(data="folder", root=root, start="scratch", head=head))


def test_missing_parts_of_coco_are_named_with_where_to_get_them(tmp_path: Path) -> None:
    settings = DetectionSettings(data="coco", root=str(tmp_path), start="scratch")
    missing = r"has no annotations/instances_train2017.json: unpack annotations_trainval2017.zip .*cocodataset.org"
    with pytest.raises(ValueError, match=missing):
        find_source(settings)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps(content(*annotated(BOX))))
    with pytest.raises(ValueError, match=r"has no train2017: unpack train2017.zip there, from https://cocodataset.org"):
        find_source(settings)


@pytest.mark.skipif(not COCO, reason="needs COCO=<folder with some images of COCO 2017>")
@pytest.mark.parametrize("head", ["boxes", "masks", "keypoints"])
def test_images_of_coco_are_read(head: str) -> None:
    source = find_source(DetectionSettings(data="coco", root=COCO, start="scratch", head=head))
    for number in source.train.learnable()[:20]:
        image, target = source.train[number]
        assert image.dtype == torch.uint8 and image.shape[0] == 3
        assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
        if head == "masks":
            assert target["masks"].shape[1:] == image.shape[1:]
            assert target["masks"].flatten(1).any(1).all()
