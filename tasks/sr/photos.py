"""Photographs that ship inside scikit-image and scikit-learn: real data without a download."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tasks.sr.folders import Pair


@dataclass(frozen=True)
class HeldOut:
    """A photograph for evaluation, and the square detail of it that is shown in figures.

    corner: (top, left) of the detail as fractions of the photograph's height and width.
    """

    name: str
    file: str
    corner: tuple[float, float]
    credit: str


_SKIMAGE, _SKLEARN = "skimage/data/", "sklearn/datasets/images/"

# The two pictures of the motorcycle are one scene: both are on this side.
TRAINING = (
    _SKIMAGE + "coffee.png",
    _SKIMAGE + "rocket.jpg",
    _SKIMAGE + "hubble_deep_field.jpg",
    _SKIMAGE + "retina.jpg",
    _SKIMAGE + "ihc.png",
    _SKIMAGE + "motorcycle_left.png",
    _SKIMAGE + "motorcycle_right.png",
    _SKLEARN + "flower.jpg",
    _SKIMAGE + "brick.png",
    _SKIMAGE + "grass.png",
    _SKIMAGE + "gravel.png",
)
EVALUATION = (
    HeldOut("astronaut", _SKIMAGE + "astronaut.png", (0.664, 0.244), "NASA, public domain"),
    HeldOut("cat", _SKIMAGE + "chelsea.png", (0.233, 0.277), "Stefan van der Walt, CC0"),
    HeldOut("china", _SKLEARN + "china.jpg", (0.234, 0.25), "danielbuechele, CC BY 2.0"),
)


def training_photos() -> list[Pair]:
    """The photographs that networks are trained on."""
    return [Pair(_installed(file)) for file in TRAINING]


def held_out_photos() -> list[Pair]:
    """The photographs that networks are scored on, in the order of `EVALUATION`."""
    return [Pair(_installed(photo.file)) for photo in EVALUATION]


def _installed(file: str) -> Path:
    """The path of a package's file, found without importing the package."""
    package, _, inside = file.partition("/")
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / inside
        if path.is_file():
            return path
    missing = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
    raise ValueError(
        f"the photograph {file} is not installed; pip install {missing}, or use data=folder with your own images"
    )
