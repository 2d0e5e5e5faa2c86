"""What COCO's format has in it. pycocotools takes it on trust: a wrong entry ends in a wrong score, or the process."""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Entry = Mapping[str, Any]
LISTS = ("images", "annotations", "categories")
FARTHEST = 1e6  # pixels; pycocotools walks along the edges of a polygon, and far ones overflow its counters


@dataclass(frozen=True)
class Field:
    """A value of an entry.

    wanted: what it is, for messages; `fits`: whether a value of an entry is that; `needed`: whether it must be there.
    """

    wanted: str
    fits: Callable[[Any, Entry], bool]
    needed: bool = True


ID = Field("a whole number", lambda value, _: isinstance(value, int))
TEXT = Field("text", lambda value, _: isinstance(value, str))
SIDE = Field("a whole number of pixels", lambda value, _: isinstance(value, int) and value > 0)
BOX = Field(
    "four finite numbers: left, top, width, height; the last two not below 0",
    lambda value, _: _numbers(value) and len(value) == 4 and min(value[2:]) >= 0,
)
CROWD = Field("0 or 1", lambda value, _: value in (0, 1), needed=False)
AREA = Field(
    "a finite number, not below 0", lambda value, _: type(value) in (int, float) and 0 <= value < math.inf, needed=False
)
NAMES = Field(
    "the names of the keypoints, for task.head=keypoints",
    lambda value, _: isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value),
)


def check(content: Any, where: str, head: str) -> None:
    """Raise ValueError at the first entry that is not as COCO's format has it; the message names it.

    Args:
        content: what the JSON file holds.
        where: the file.
        head: boxes, masks or keypoints, which annotations must then have.
    """
    for key in LISTS:
        if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
            raise ValueError(f"{where}: annotations in COCO's format have lists of {', '.join(LISTS)}; no '{key}'")
    of_head = {"keypoints": NAMES} if head == "keypoints" else {}
    images = _checked(where, "images", content, {"id": ID, "file_name": TEXT, "width": SIDE, "height": SIDE})
    categories = _checked(where, "categories", content, {"id": ID, "name": TEXT} | of_head)
    _check(where, "annotations", content["annotations"], _fields_of_annotations(images, categories, head))


def _fields_of_annotations(images: Mapping[int, Entry], categories: Mapping[int, Entry], head: str) -> dict[str, Field]:
    """Those that others depend on come first."""
    fields = {
        "image_id": Field(
            f"the id of one of the {len(images)} images; are they annotations of other images?",
            lambda value, _: isinstance(value, int) and value in images,
        ),
        "category_id": Field("the id of a category", lambda value, _: isinstance(value, int) and value in categories),
        "bbox": BOX,
        "iscrowd": CROWD,
        "area": AREA,
    }
    if head == "masks":
        fields["segmentation"] = Field(
            "polygons of three points or more, [[x, y, x, y, x, y], ...], or run lengths that fill its image, "
            '{"size": [height, width], "counts": ...}, for task.head=masks',
            lambda value, entry: _is_mask(value, images[entry["image_id"]]),
        )
    if head == "keypoints":
        fields["keypoints"] = Field(
            "x, y, visibility of each keypoint of its category, in a row, for task.head=keypoints",
            lambda value, entry: (
                _numbers(value) and len(value) == 3 * len(categories[entry["category_id"]]["keypoints"])
            ),
        )
    return fields


def _checked(where: str, name: str, content: Entry, fields: Mapping[str, Field]) -> dict[int, Entry]:
    """The entries by their ids, each of which is there once."""
    _check(where, name, content[name], fields)
    for key, count in Counter(entry["id"] for entry in content[name]).items():
        if count > 1:
            raise ValueError(f"{where}: {count} {name} have the id {key}; each must have its own")
    return {entry["id"]: entry for entry in content[name]}


def _check(where: str, name: str, entries: Sequence[Any], fields: Mapping[str, Field]) -> None:
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: {name}[{position}] is {reprlib.repr(entry)}; it must have {', '.join(fields)}")
        for key, field in fields.items():
            if (field.needed or key in entry) and not field.fits(entry.get(key), entry):
                has = f"{key} {reprlib.repr(entry[key])}" if key in entry else f"no {key}"
                raise ValueError(f"{where}: {name}[{position}] has {has}; it must be {field.wanted}")


def _numbers(given: Any) -> bool:
    return (
        isinstance(given, list)
        and {*map(type, given)} <= {int, float}
        and all(-FARTHEST <= value <= FARTHEST for value in given)
    )


def _is_mask(given: Any, image: Entry) -> bool:
    if isinstance(given, list):
        return bool(given) and all(_numbers(part) and len(part) >= 6 and len(part) % 2 == 0 for part in given)
    height, width = image["height"], image["width"]
    if not isinstance(given, dict) or given.get("size") != [height, width]:
        return False
    counts = given.get("counts")
    runs = _runs(counts) if isinstance(counts, str) else counts
    return (
        isinstance(runs, list)
        and all(isinstance(run, int) and run >= 0 for run in runs)
        and sum(runs) == height * width
    )


def _runs(compressed: str) -> list[int]:
    """Run lengths as numbers: each is stored in characters of five bits, from the third on less the last but one."""
    runs: list[int] = []
    value = shift = 0
    for byte in compressed.encode():
        bits = byte - 48
        value |= (bits & 0b11111) << shift
        shift += 5
        if not bits & 0b100000:  # the last character
            signed = value - (1 << shift) if bits & 0b10000 else value
            runs.append(signed + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs if shift == 0 else []
