"""Images that the project draws: overlapping circles, boxes, stars and stick figures, annotated exactly as COCO is.

Each image is a function of a seed and its number alone, so that nothing is stored and any number can be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor

from tasks.detection.annotations import Annotations
from tasks.detection.images import DetectionImages

PERSON = "person"
CATEGORIES = ("circle", "box", "star", PERSON)
POINTS = {  # of a person of height 1 around (0, 0), y downwards; as in COCO, a person's left is on the right
    "nose": (0.0, -0.40), "left_eye": (0.04, -0.44), "right_eye": (-0.04, -0.44), "left_ear": (0.09, -0.42),
    "right_ear": (-0.09, -0.42), "left_shoulder": (0.14, -0.25), "right_shoulder": (-0.14, -0.25),
    "left_elbow": (0.22, -0.08), "right_elbow": (-0.22, -0.08), "left_wrist": (0.27, 0.08),
    "right_wrist": (-0.27, 0.08), "left_hip": (0.08, 0.07), "right_hip": (-0.08, 0.07), "left_knee": (0.12, 0.28),
    "right_knee": (-0.12, 0.28), "left_ankle": (0.14, 0.47), "right_ankle": (-0.14, 0.47),
}  # fmt: skip
SKELETON = (
    ("left_shoulder", "right_shoulder"), ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
    ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"), ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"), ("left_hip", "right_hip"), ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"), ("right_hip", "right_knee"), ("right_knee", "right_ankle"),
)  # fmt: skip
NAMES = tuple(POINTS)
LEAST_SHOWN = 0.4  # part of an object that stays in view, or it would be guesswork
SMALLEST = 12  # pixels of an object that are seen
TRIES = 12  # places and sizes that are tried for an object


@dataclass
class Drawn:
    """An object.

    Attributes:
        mask: where it is seen, [H, W]; `area`: how much of it was, before others came in front of it.
        points: keypoints of a person, [17, 2].
    """

    category: str
    mask: np.ndarray
    area: int
    points: np.ndarray | None = None


@dataclass(frozen=True)
class Scene:
    """An image: uint8 [H, W, 3], and its objects from the back to the front."""

    pixels: np.ndarray
    objects: list[Drawn]


def draw(seed: int, number: int, side: int) -> Scene:
    """Image `number` of a seed, `side` x `side`: one to four objects before a background of soft colours and noise."""
    rng = np.random.RandomState([seed, number])  # its numbers never change
    ends = rng.uniform(0, 120, (2, 2, 3))
    across, down = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    weights = np.stack([(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across], -1)
    pixels = weights @ ends.reshape(4, 3)
    objects: list[Drawn] = []
    for _ in range(rng.randint(1, 5)):
        drawn = _placed(rng, side, objects)
        if drawn is not None:
            for behind in objects:
                behind.mask = behind.mask & ~drawn.mask
            objects.append(drawn)
            pixels[drawn.mask] = rng.uniform(130, 255, 3)
    noisy = pixels + rng.normal(0, 6, pixels.shape)
    return Scene(noisy.clip(0, 255).astype(np.uint8), objects)


def shapes(name: str, *, seed: int, count: int, side: int, head: str, cache_gb: float = 1.0) -> DetectionImages:
    """`count` images of a seed, with annotations in COCO's format; for keypoints only persons are annotated."""
    scenes = [draw(seed, number, side) for number in range(count)]
    categories = (PERSON,) if head == "keypoints" else CATEGORIES
    found = [_annotation(scene, drawn, n) for n, scene in enumerate(scenes) for drawn in scene.objects]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": side, "width": side} for n in range(count)],
        "annotations": [
            {**one, "id": number}
            for number, one in enumerate((one for one in found if one["category_id"] in _ids(categories)), start=1)
        ],
        "categories": [_category(name) for name in categories],
    }

    def read(image: Mapping[str, Any]) -> Tensor:
        return torch.from_numpy(scenes[image["id"]].pixels).permute(2, 0, 1)

    return DetectionImages(name, Annotations(content, "data=shapes", head), read, cache_gb=cache_gb)


def _ids(categories: tuple[str, ...]) -> set[int]:
    return {CATEGORIES.index(name) + 1 for name in categories}


def _category(name: str) -> dict[str, Any]:
    skeleton = [[NAMES.index(a) + 1, NAMES.index(b) + 1] for a, b in SKELETON]
    own = {"keypoints": list(NAMES), "skeleton": skeleton} if name == PERSON else {}
    return {"id": CATEGORIES.index(name) + 1, "name": name, "supercategory": "shape", **own}


def _annotation(scene: Scene, drawn: Drawn, number: int) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(drawn.mask.astype(np.uint8)))
    found = {
        "image_id": number,
        "category_id": CATEGORIES.index(drawn.category) + 1,
        "iscrowd": 0,
        "area": float(rle.area(encoded)),
        "bbox": rle.toBbox(encoded).tolist(),
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
    }
    if drawn.points is not None:
        seen = [_visibility(point, drawn.mask) for point in drawn.points]
        rows = [[int(x), int(y), v] if v else [0, 0, 0] for (x, y), v in zip(drawn.points, seen, strict=True)]
        found |= {"keypoints": [value for row in rows for value in row], "num_keypoints": sum(v > 0 for v in seen)}
    return found


def _visibility(point: np.ndarray, mask: np.ndarray) -> int:
    """As COCO counts: 2 seen, 1 hidden by another object, 0 outside the image."""
    x, y = (int(np.floor(value)) for value in point)
    if not (0 <= x < mask.shape[1] and 0 <= y < mask.shape[0]):
        return 0
    near = mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]  # limbs are thin
    return 2 if near.any() else 1


def _placed(rng: np.random.RandomState, side: int, behind: list[Drawn]) -> Drawn | None:
    """An object at a place where it leaves enough of itself and of those behind it in view; None: there is none."""
    category = CATEGORIES[rng.randint(len(CATEGORIES))]
    for _ in range(TRIES):
        drawn, whole = _object(rng, category, side)
        shown = all((one.mask & ~drawn.mask).sum() >= LEAST_SHOWN * one.area for one in behind)
        if shown and drawn.area >= max(LEAST_SHOWN * whole, SMALLEST):
            return drawn
    return None


def _object(rng: np.random.RandomState, category: str, side: int) -> tuple[Drawn, float]:
    """An object anywhere, and the area that it would have were none of it outside the image."""
    size = side * rng.uniform(0.2, 0.5) * (1.4 if category == PERSON else 1.0)
    centre = rng.uniform(0.1, 0.9, 2) * side
    turn = rng.uniform(-np.pi, np.pi)
    stretch = rng.uniform(0.5, 1.0)
    reach = int(0.75 * size) + 2
    corner = centre.astype(int) - reach
    y, x = np.mgrid[corner[1] : corner[1] + 2 * reach, corner[0] : corner[0] + 2 * reach] + 0.5
    at = np.stack([x - centre[0], y - centre[1]], -1) / size  # of an object of size 1 around (0, 0)
    points = None
    if category == "circle":
        mask = (at**2).sum(-1) <= 0.25
    elif category == "box":
        mask = (np.abs(at) <= (0.5, 0.5 * stretch)).all(-1)
    elif category == "star":
        mask = _star(at, turn)
    else:
        local = _pose(rng)
        mask, points = _person(at, local, thickness=max(0.035, 0.9 / size)), local * size + centre
    seen = np.zeros((side, side), dtype=bool)
    left, top = corner.clip(0)
    part = mask[top - corner[1] : side - corner[1], left - corner[0] : side - corner[0]]
    seen[top : top + len(part), left : left + part.shape[1]] = part
    return Drawn(category, seen, int(seen.sum()), points), float(mask.sum())


def _star(at: np.ndarray, turn: float) -> np.ndarray:
    """Five points: inside where the radius is below that of the edge at this angle."""
    angle = (np.arctan2(at[..., 1], at[..., 0]) + turn) % (2 * np.pi / 5)
    off = np.abs(angle - np.pi / 5)  # from the notch, where the radius is least
    inner, outer = 0.22, 0.55
    # The edge is the line from the notch (inner, 0) to the tip at pi / 5.
    tip = outer * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    normal = np.array([tip[1], inner - tip[0]])
    radius = np.hypot(at[..., 0], at[..., 1])
    inside: np.ndarray = radius * (np.cos(off) * normal[0] + np.sin(off) * normal[1]) <= inner * normal[0]
    return inside


def _pose(rng: np.random.RandomState) -> np.ndarray:
    """Keypoints [17, 2] of a person whose limbs are a little elsewhere each time."""
    points = np.array(list(POINTS.values()))
    moved = rng.normal(0, 0.03, points.shape)
    moved[:5] = moved[0]  # the head moves as a whole
    for limb in ("elbow", "wrist", "knee", "ankle"):
        for name in (f"left_{limb}", f"right_{limb}"):
            moved[NAMES.index(name)] *= 2
    return points + moved


def _person(at: np.ndarray, points: np.ndarray, thickness: float) -> np.ndarray:
    """A round head on lines between the keypoints."""
    named = dict(zip(NAMES, points, strict=True))
    mask: np.ndarray = ((at - named["nose"]) ** 2).sum(-1) <= 0.11**2
    neck = (named["left_shoulder"] + named["right_shoulder"]) / 2
    lines = [(named["nose"], neck), *((named[a], named[b]) for a, b in SKELETON)]
    for start, end in lines:
        along = end - start
        share = (((at - start) @ along) / (along @ along)).clip(0, 1)
        mask |= ((at - start - share[..., None] * along) ** 2).sum(-1) <= thickness**2
    return mask
