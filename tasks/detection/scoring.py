"""Average precision, by pycocotools alone."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from tasks.detection.annotations import Annotations
from tasks.task import Metric

KINDS = {"boxes": ("box",), "masks": ("mask", "box"), "keypoints": ("keypoint", "box")}
"""What is scored of each head; the first is what figures are about."""
IOU_TYPES = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}
STATISTICS = {
    "box": {"ap": 0, "ap50": 1, "ap75": 2, "ap_small": 3, "ap_medium": 4, "ap_large": 5},
    "keypoint": {"ap": 0, "ap50": 1, "ap75": 2, "ap_medium": 3, "ap_large": 4},
}
"""Where pycocotools' summary has each number."""
ANY_AREA = (0, 1e10)
AREAS = {"ap_small": (0, 32**2), "ap_medium": (32**2, 96**2), "ap_large": (96**2, 1e10)}


def metrics_for(annotations: Annotations) -> tuple[Metric, ...]:
    """What can be scored on these annotations: each number only where there are objects that it is of."""
    return tuple(
        Metric(f"{kind}_{name}", "%", "higher")
        for kind in KINDS[annotations.head]
        for name in _statistics(kind)
        if _has_of_size(annotations, kind, *AREAS.get(name, ANY_AREA))
    )


def scores(annotations: Annotations, found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The metrics of some predictions, in percent.

    Args:
        annotations: of the images that were looked at, all of them.
        found: predictions as COCO's result files have them, `results_of` makes them.
    """
    wanted = [metric.name for metric in metrics_for(annotations)]
    values: dict[str, float] = {}
    for kind in KINDS[annotations.head]:
        summary = _summary(annotations, found, IOU_TYPES[kind])
        values |= {f"{kind}_{name}": 100 * float(summary[place]) for name, place in _statistics(kind).items()}
    return {name: values[name] for name in wanted}


def results_of(
    image: Mapping[str, Any], output: Mapping[str, Tensor], annotations: Annotations
) -> Iterable[dict[str, Any]]:
    """What a detector has found in an image, as COCO's result files have it.

    Args:
        image: its entry in the annotations.
        output: boxes [n, 4], labels [n], scores [n], and masks [n, 1, H, W] or keypoints [n, k, 3] of torchvision.
    """
    output = {key: value.cpu() for key, value in output.items()}
    corners = output["boxes"].double()
    boxes = (corners - corners[:, [0, 1, 0, 1]] * corners.new_tensor([0, 0, 1, 1])).tolist()
    labels, certainty = output["labels"].tolist(), output["scores"].tolist()
    for n, (box, label, score) in enumerate(zip(boxes, labels, certainty, strict=True)):
        found = {"image_id": image["id"], "category_id": annotations.categories[label - 1], "bbox": box, "score": score}
        if "masks" in output:
            mask = np.asfortranarray((output["masks"][n, 0] > 0.5).numpy().astype(np.uint8))
            found["segmentation"] = rle.encode(mask)
        if "keypoints" in output:
            points = output["keypoints"][n].clone()
            points[:, :2] -= 0.5  # as they were moved when they were read
            found["keypoints"] = points.flatten().tolist()
        yield found


def _summary(annotations: Annotations, found: Sequence[Mapping[str, Any]], iou_type: str) -> np.ndarray:
    if not found:
        return np.zeros(12)
    own = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[iou_type]
    kept = [{key: one[key] for key in ("image_id", "category_id", "score", own)} for one in found]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(annotations.coco, annotations.coco.loadRes(kept), iou_type)
        if iou_type == "keypoints":
            evaluation.params.kpt_oks_sigmas = _sigmas(evaluation.params.kpt_oks_sigmas, len(annotations.keypoints))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats: np.ndarray = evaluation.stats
    return stats


def _sigmas(of_coco: np.ndarray, count: int) -> np.ndarray:
    """How far off each keypoint may be: COCO's for as many as COCO has, else the mean of COCO's for all."""
    return of_coco if count == len(of_coco) else np.full(count, of_coco.mean())


def _statistics(kind: str) -> Mapping[str, int]:
    return STATISTICS.get(kind, STATISTICS["box"])


def _has_of_size(annotations: Annotations, kind: str, least: float, most: float) -> bool:
    return any(
        least <= annotation["area"] <= most  # pycocotools counts what lies on the border on both sides
        for annotation in annotations.coco.anns.values()
        if not annotation["iscrowd"] and (kind != "keypoint" or annotation["num_keypoints"])
    )
