"""What makes two results the same: a hash over everything that decides them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

MEANING = 1
"""Raised when a change of the code changes what the same settings give, so that old records are not taken for new."""


def settings_hash(task: str, settings: Mapping[str, Any], recipe: Mapping[str, Any], steps: int) -> str:
    """12 hexadecimal digits; `recipe`: its settings, without its name; the seed is not in it."""
    decides = {"meaning": MEANING, "task": task, "settings": settings, "recipe": recipe, "steps": steps}
    canonical = json.dumps(decides, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def slug(name: str) -> str:
    """A recipe's name, in any alphabet, as a part of a file name, which no file system finds too long."""
    return re.sub(r"[^\w.+=]+", "_", name).strip("._")[:60]


def record_name(recipe: str, seed: int, hash_: str) -> str:
    """`<recipe>-<seed>-<hash>`: what a result is called, in file names and elsewhere."""
    return f"{slug(recipe)}-{seed}-{hash_}"
