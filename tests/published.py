"""The published tables, and the layouts of the released checkpoints, as the tests read them.

A line of `tests/data/published_layouts/<name>.txt` is a convolution and the BatchNorm after it: the name,
the shape of the weight, and the channels of the BatchNorm at each width, narrowest first, or `single`
where there is one for all. `_*` stands for the three groups of ShuffleNet.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
LAYOUTS = REPOSITORY / "tests" / "data" / "published_layouts"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
ALL_FIVE = ("weight", "bias", *STATISTICS)
Shape = tuple[int, ...]


def tables() -> dict[str, Any]:
    """Name of a table -> its description, with a dict for each row."""
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / "results" / "published" / "tables.yaml").read_text())
    for table in found["tables"].values():
        table["rows"] = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    return found["tables"]


def paper_folder() -> Path:
    """The folder with the original tables and key lists; skips the test where it is not beside the repository."""
    folder = Path(os.environ.get("SLIM_PAPER", REPOSITORY.parent / "shared" / "paper"))
    if not folder.is_dir():
        pytest.skip(f"no published lists in {folder}; set SLIM_PAPER to the folder that holds paper_tables.yaml")
    return folder


def layout(name: str) -> dict[str, Shape]:
    """Every key of a released checkpoint, in its order, and its shape."""
    return dict(_lines(name))


def _lines(name: str) -> Iterator[tuple[str, Shape]]:
    shared = name.startswith("us_")
    for line in (LAYOUTS / f"{name}.txt").read_text().splitlines():
        pattern, weight, *sizes = line.split()
        for group in range(3 if "*" in pattern else 1):
            conv = "module." + pattern.replace("*", str(group))
            shape = tuple(map(int, weight.split("x")))
            yield f"{conv}.weight", shape
            if not sizes:
                yield f"{conv}.bias", shape[:1]
                continue
            norm = re.sub(r"\d+$", lambda position: str(int(position[0]) + 1), conv)
            if sizes == ["single"]:
                yield from _norm(norm, shape[0], ALL_FIVE)
                continue
            if shared:
                yield from _norm(norm, shape[0], ("weight", "bias"))
            for width, size in enumerate(map(int, sizes)):
                yield from _norm(f"{norm}.bn.{width}", size, STATISTICS if shared else ALL_FIVE)


def _norm(name: str, size: int, keys: tuple[str, ...]) -> Iterator[tuple[str, Shape]]:
    for key in keys:
        yield f"{name}.{key}", () if key == "num_batches_tracked" else (size,)


def seeded_state(name: str) -> dict[str, Tensor]:
    """A checkpoint of this layout with random values of a size that keeps the outputs in bounds."""
    generator = torch.Generator().manual_seed(len(name))
    state: dict[str, Tensor] = {}
    for key, shape in layout(name).items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif len(shape) > 1:
            fan_in = torch.Size(shape[1:]).numel()
            state[key] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        else:
            around = 0.0 if key.endswith(("bias", "running_mean")) else 1.0
            state[key] = around + (torch.rand(shape, generator=generator) - 0.5) * 0.6
    return state
