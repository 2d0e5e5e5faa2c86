"""What networks find in images, drawn into them: boxes, masks and skeletons, a network beside the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from tasks.crops import Crop, Row, showcase_of
from tasks.detection.annotations import Annotations
from tasks.detection.images import DetectionImages
from tasks.detection.loading import to_float
from tasks.task import Showcase

SHOWN, LEAST_SCORE = 5, 0.5
ENLARGED = 3
COLOURS = ((255, 214, 0), (0, 229, 255), (255, 82, 82), (118, 255, 3), (224, 64, 251), (255, 145, 0))
CREDIT = "drawn by this project"
MEASURED = f"Objects with a score of at least {LEAST_SCORE:g}; annotated: as they were drawn"


@torch.no_grad()
def compared(nets: Mapping[str, Callable[[list[Tensor]], Any]], images: DetectionImages) -> Showcase:
    """The grid of pictures, and `crops/` with each of them as it is, which `crops/index.json` lists.

    Args:
        nets: label -> network, in eval mode: images in [0, 1] -> a dict of boxes, labels, scores and so on for each.
        images: held out; those with most objects of the first twenty are shown.
    """
    numbers = sorted(range(min(len(images), 20)), key=lambda n: -len(images[n][1]["boxes"]))[:SHOWN]
    inputs = [to_float(images.pixels(n)) for n in numbers]
    outputs = {label: net(inputs) for label, net in nets.items()}
    objects = dict.fromkeys(["annotated", *nets], 0)
    rows = []
    for position, number in enumerate(numbers):
        pixels, target = images[number]
        found = {"annotated": target} | {label: _sure(output[position]) for label, output in outputs.items()}
        crops = [Crop("original", _enlarged(pixels))]
        for label, own in found.items():
            crops.append(Crop(label, _drawn(pixels, own, images.annotations)))
            objects[label] += len(own["labels"])
        rows.append(Row(f"image {position + 1}", CREDIT, crops))
    return showcase_of(rows, finding=_finding(objects), measured=MEASURED)


def _finding(objects: dict[str, int]) -> str:
    """How many objects there are, and how many each network puts out, right or wrong."""
    annotated = objects.pop("annotated")
    return f"{annotated} objects; found: " + ", ".join(f"{count} at {label}" for label, count in objects.items())


def _sure(output: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The objects with a high score, as a target has them."""
    kept = output["scores"] >= LEAST_SCORE
    found = {key: value[kept].cpu() for key, value in output.items()}
    if "masks" in found:
        found["masks"] = found["masks"][:, 0] > 0.5
    return found


def _drawn(pixels: Tensor, found: Mapping[str, Tensor], annotations: Annotations) -> np.ndarray:
    canvas = _enlarged(pixels).astype(np.float64)
    colours = [COLOURS[(int(label) - 1) % len(COLOURS)] for label in found["labels"]]
    for mask, colour in zip(found.get("masks", ()), colours, strict=False):
        where = _grown(mask.numpy().astype(bool))
        canvas[where] = 0.5 * canvas[where] + 0.5 * np.array(colour)
    image = Image.fromarray(canvas.astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for n, (box, colour) in enumerate(zip(found["boxes"].tolist(), colours, strict=True)):
        pen.rectangle([ENLARGED * side for side in box], outline=colour, width=2)
        if "scores" in found:
            name = annotations.classes[int(found["labels"][n]) - 1]
            pen.text((ENLARGED * box[0] + 3, ENLARGED * box[1] + 1), f"{name} {found['scores'][n]:.2f}", fill=colour)
        if "keypoints" in found:
            _draw_skeleton(pen, found["keypoints"][n], annotations)
    return np.asarray(image)


def _draw_skeleton(pen: ImageDraw.ImageDraw, points: Tensor, annotations: Annotations) -> None:
    """Lines between the keypoints that are there."""
    places = [(ENLARGED * x, ENLARGED * y) if seen > 0 else None for x, y, seen in points.tolist()]
    category = annotations.coco.cats[annotations.categories[0]]
    for first, second in category.get("skeleton", ()):
        start, end = places[first - 1], places[second - 1]
        if start and end:
            pen.line([start, end], fill=COLOURS[1], width=2)
    for place in filter(None, places):
        pen.ellipse([place[0] - 2, place[1] - 2, place[0] + 2, place[1] + 2], fill=COLOURS[2])


def _enlarged(pixels: Tensor) -> np.ndarray:  # [3, H, W] -> [ENLARGED * H, ENLARGED * W, 3]
    return _grown(pixels.permute(1, 2, 0).numpy())


def _grown(array: np.ndarray) -> np.ndarray:
    grown: np.ndarray = array.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    return grown
