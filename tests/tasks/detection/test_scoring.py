"""Scores are pycocotools' own."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from tasks.detection.annotations import Annotations
from tasks.detection.images import DetectionImages
from tasks.detection.scoring import IOU_TYPES, KINDS, metrics_for, results_of, scores
from tasks.detection.shapes import shapes
from tests.tasks.detection.conftest import annotated, content

HEADS = tuple(KINDS)


def truth(data: DetectionImages, number: int) -> dict[str, Tensor]:
    """The objects of an image as a detector that is always right would put them out."""
    target = dict(data[number][1])
    target["scores"] = torch.ones(len(target["boxes"]))
    if "masks" in target:
        target["masks"] = target["masks"][:, None].float()
    return target


def perturbed(data: DetectionImages, number: int) -> dict[str, Tensor]:
    """Objects that are elsewhere, of another class, or there twice."""
    found, generator = truth(data, number), torch.Generator().manual_seed(number)
    count = len(found["boxes"])
    found["boxes"] = found["boxes"] + torch.randn(count, 4, generator=generator)
    found["scores"] = torch.rand(count, generator=generator)
    if "masks" in found:
        found["masks"] = found["masks"].roll(1, -1)
    else:
        found["labels"] = torch.where(torch.rand(count, generator=generator) < 0.2, 1, found["labels"])
    if "keypoints" in found:
        found["keypoints"] = found["keypoints"] + torch.randn(count, 17, 3, generator=generator)
    return {key: torch.cat([value, value[:1]]) for key, value in found.items()}


def predictions(data: DetectionImages, make: Any) -> list[dict[str, Any]]:
    own = data.annotations
    return [found for n, image in enumerate(own.images) for found in results_of(image, make(data, n), own)]


@pytest.fixture(params=HEADS)
def data(request: pytest.FixtureRequest) -> DetectionImages:
    return shapes("test", seed=3, count=20, side=64, head=request.param)


def test_the_truth_scores_full_marks(data: DetectionImages) -> None:
    found = scores(data.annotations, predictions(data, truth))
    assert found.keys() == {metric.name for metric in metrics_for(data.annotations)}
    assert found.keys() >= {f"{kind}_ap{part}" for kind in KINDS[data.annotations.head] for part in ("", "50", "75")}
    assert found == pytest.approx(dict.fromkeys(found, 100.0), abs=1e-9)


def test_other_predictions_score_what_pycocotools_gives_directly(data: DetectionImages) -> None:
    found = predictions(data, perturbed)
    ours = scores(data.annotations, found)
    for kind in KINDS[data.annotations.head]:
        own = {"box": "bbox", "mask": "segmentation", "keypoint": "keypoints"}[kind]
        kept = [{key: one[key] for key in ("image_id", "category_id", "score", own)} for one in found]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(data.annotations.coco, data.annotations.coco.loadRes(kept), IOU_TYPES[kind])
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert [ours[f"{kind}_ap{part}"] for part in ("", "50", "75")] == (100 * evaluation.stats[:3]).tolist()
        assert 0 < ours[f"{kind}_ap"] < 95


def test_nothing_found_scores_nothing(data: DetectionImages) -> None:
    assert set(scores(data.annotations, []).values()) == {0.0}


@pytest.mark.parametrize("ids", [({"id": 0}, {"id": 1}), ({"id": 7}, {"id": 7}), ({}, {})])
def test_ids_of_annotations_do_not_matter(ids: tuple[dict[str, int], ...]) -> None:
    """pycocotools takes a match with id 0 for none, and of two objects with the same id one for both."""
    boxes = [1, 2, 10, 20], [30, 5, 20, 20]
    first, second = ({"image_id": 1, "category_id": 3, "bbox": box} | own for box, own in zip(boxes, ids, strict=True))
    annotations = Annotations(content(first, second), "test.json")
    found = [{"image_id": 1, "category_id": 3, "bbox": one["bbox"], "score": 1.0} for one in (first, second)]
    assert scores(annotations, found)["box_ap"] == pytest.approx(100.0)


def with_keypoints(count: int, visibility: int) -> Annotations:
    """An object of an image, whose keypoints are in a row."""
    points = [value for n in range(count) for value in (10 + n, 20, visibility)]
    said = content(*annotated((5, 5, 40, 30), keypoints=points))
    said["categories"] = [{"id": 3, "name": "cat", "keypoints": [f"point {n}" for n in range(count)]}]
    return Annotations(said, "test.json", "keypoints")


def test_any_number_of_keypoints_is_scored() -> None:
    """Other numbers than COCO's have the mean of its sigmas: this far off, a keypoint is as similar as exp(-1/2)."""
    annotations = with_keypoints(5, 2)
    off = 2 * 0.669 / 10 * (40 * 30) ** 0.5
    for shift, expected in ((0.0, 100.0), (off, 30.0)):  # at 0.5, 0.55 and 0.6 it is found
        points = [value for n in range(5) for value in (10 + n + shift, 20, 1)]
        one = {"image_id": 1, "category_id": 3, "bbox": [5, 5, 40, 30], "score": 1.0, "keypoints": points}
        assert scores(annotations, [one])["keypoint_ap"] == pytest.approx(expected)


def test_keypoints_without_a_label_are_no_metric() -> None:
    names = {metric.name for metric in metrics_for(with_keypoints(5, 0))}
    assert "box_ap" in names and not any(name.startswith("keypoint") for name in names)


def test_sizes_without_an_object_are_no_metric() -> None:
    names = {metric.name for metric in metrics_for(shapes("test", seed=0, count=5, side=32, head="boxes").annotations)}
    assert "box_ap_small" in names and "box_ap_large" not in names


@pytest.mark.parametrize(("side", "sizes"), [(32, {"small", "medium"}), (96, {"medium", "large"}), (33, {"medium"})])
def test_an_object_on_the_border_of_two_sizes_is_of_both(side: int, sizes: set[str]) -> None:
    annotations = Annotations(content(*annotated((5, 5, side, side))), "test.json")
    (one,) = annotations.coco.anns.values()
    found = scores(annotations, [{"image_id": 1, "category_id": 3, "bbox": one["bbox"], "score": 1.0}])
    assert {name.removeprefix("box_ap_") for name in found if name.startswith("box_ap_")} == sizes
    assert found == pytest.approx(dict.fromkeys(found, 100.0))


def test_drawn_annotations_fit_the_pixels() -> None:
    """Boxes are those of the masks, areas their pixels, and no two objects of an image share a pixel."""
    data = shapes("test", seed=1, count=30, side=64, head="masks")
    for number, image in enumerate(data.annotations.images):
        masks = data[number][1]["masks"].numpy()
        assert masks.sum(0).max(initial=0) <= 1
        for mask, annotation in zip(masks, data.annotations.of(image), strict=True):
            rows, columns = np.nonzero(mask)
            left, top = columns.min(), rows.min()
            assert annotation["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
            assert annotation["area"] == mask.sum()


def test_drawn_images_depend_on_seed_and_number_alone() -> None:
    few, many, other = (shapes("test", seed=s, count=n, side=32, head="boxes") for s, n in ((5, 3), (5, 6), (6, 3)))
    assert all(torch.equal(few[n][0], many[n][0]) for n in range(3))
    assert not any(torch.equal(few[n][0], other[n][0]) for n in range(3))


def test_keypoints_say_whether_they_are_seen() -> None:
    data = shapes("test", seed=0, count=60, side=64, head="keypoints")
    for annotation in data.annotations.coco.anns.values():
        points = np.array(annotation["keypoints"]).reshape(17, 3)
        mask = data.annotations.coco.annToMask(annotation)
        assert annotation["num_keypoints"] == (points[:, 2] > 0).sum()
        assert (points[points[:, 2] == 0] == 0).all()
        for x, y, _ in points[points[:, 2] == 2]:
            assert mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()
