"""The packages whose networks are converted, where they are installed; also beside a torch that torchvision's
operators do not fit.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from tasks.detection import operators

NAMES = ("torchvision", "timm", "transformers", "segmentation_models_pytorch")
ABSENT = [name for name in NAMES if importlib.util.find_spec(name) is None]
WHY_SKIPPED = f"needs {' and '.join(ABSENT)}: pip install -e '.[families]'"


def torchvision() -> Any:
    """torchvision itself; called before anything else imports it, as the others do."""
    return operators.torchvision()


def module(name: str) -> Any:
    """A module of any of them, by its full name."""
    torchvision()
    return importlib.import_module(name)
