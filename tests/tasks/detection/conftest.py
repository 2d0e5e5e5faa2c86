"""What the tests of detection share; without its packages there are none."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

if any(importlib.util.find_spec(name) is None for name in ("torchvision", "pycocotools")):
    collect_ignore_glob = ["test_*.py"]

SMALL: Mapping[str, Any] = {
    "data": "shapes", "model": "resnet18", "start": "scratch", "multiplier": 0.125, "divisor": 2, "pyramid": 8,
    "hidden": 16, "anchor": 8, "sides": (64,), "longest": 64, "side": 64, "images": 6, "held_out": 4, "proposals": 20,
    "sampled": 16, "batch": 2, "optimizer": "adamw", "lr": 0.001, "warmup": 2, "widths": (0.5, 1.0),
}  # fmt: skip

MakeFolder = Callable[..., Path]


@pytest.fixture
def small() -> dict[str, Any]:
    """Settings of a task that a step takes a moment of."""
    return dict(SMALL)


def annotated(*boxes: tuple[float, ...], image: int = 1, **changes: Any) -> list[dict[str, Any]]:
    """Annotations of an image, a box each."""
    return [
        {"id": n, "image_id": image, "category_id": 3, "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0}
        | changes
        for n, box in enumerate(boxes, start=100 * image)
    ]


def content(*annotations: dict[str, Any], height: int = 40, width: int = 60, images: int = 1) -> dict[str, Any]:
    """A file of annotations in COCO's format."""
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": height, "width": width} for n in range(1, images + 1)],
        "annotations": list(annotations),
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


@pytest.fixture
def folder(tmp_path: Path) -> MakeFolder:
    """Makes a folder for data=folder, of one training and one evaluation image, each with its annotations."""

    def make(train: Mapping[str, Any], val: Mapping[str, Any] | None = None) -> Path:
        for part, said in (("train", train), ("val", val or train)):
            (tmp_path / part).mkdir()
            (tmp_path / f"{part}.json").write_text(json.dumps(said))
            for image in said.get("images", []):
                pixels = np.random.default_rng(0).integers(0, 255, (image["height"], image["width"], 3), dtype=np.uint8)
                path = tmp_path / part / image["file_name"]
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(pixels).save(path)
        return tmp_path

    return make
