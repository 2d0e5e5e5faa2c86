"""torchvision and timm, where they are installed; also beside a torch that torchvision's operators do not fit.

The released torchvision is built for CUDA. Beside a CPU build of torch its compiled operators do not load,
and its import stops where it gives two of them a shape function. Declared, though never implemented, they let the
import pass: no classifier calls them.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

import torch

NAMES = ("torchvision", "timm")
ABSENT = [name for name in NAMES if importlib.util.find_spec(name) is None]
WHY_SKIPPED = f"needs {' and '.join(ABSENT)}: pip install -e '.[families]'"

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def torchvision() -> Any:
    """torchvision itself; called before anything else imports it, as timm does."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for schema in SCHEMAS:
        _library().define(schema)
    return importlib.import_module("torchvision")


@cache
def _library() -> torch.library.Library:
    """Held by the cache, since what a library declares goes when it goes."""
    return torch.library.Library("torchvision", "DEF")


def module(name: str) -> Any:
    """A module of either, by its full name."""
    torchvision()
    return importlib.import_module(name)
