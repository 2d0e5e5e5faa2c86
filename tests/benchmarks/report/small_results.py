"""Results folders with a few records and pictures, without any training."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

from benchmarks.records.folder import ResultsFolder
from benchmarks.records.record import Record, write_record
from tests.benchmarks.records.records_of import policy, record

LABELS = ("original", "bicubic", "width 0.25", "width 0.5", "width 1")
HOSTILE = "</script><script>alert(1)</script><b>%{x}&amp;"


def write_all(records: list[Record], results: Path) -> Path:
    """Write records of one folder; returns the folder."""
    first = records[0]
    folder = results / first.task / first.ablation / first.scale
    for one in records:
        write_record(one, ResultsFolder(folder).records)
    return folder


def sr_records() -> list[Record]:
    """Two recipes with three seeds, one of them without a record at the narrowest width of a seed."""
    widths = (0.25, 0.5, 1.0)
    made = [record("individual", s, {w: 30 + s / 10 + 2 * w for w in widths}) for s in range(3)]
    made += [record("sandwich", s, {w: 29 + s / 5 + 3 * w for w in widths}) for s in range(3)]
    return [*made, record("random", 0, dict.fromkeys(widths, 29.0))]


def rl_records() -> list[Record]:
    """Individual and slimmable policies with five seeds and curves."""
    return [
        policy(
            recipe,
            seed,
            {w: [100 * w + seed + n for n in range(3)] for w in (0.0625, 0.25, 1.0)},
            {w: [(step, step * w + seed) for step in range(0, 100, 10)] for w in (0.0625, 0.25, 1.0)},
            training={"kind": "individual" if recipe == "individual" else "slimmable"},
        )
        for recipe in ("individual", "sandwich")
        for seed in range(5)
    ]


def write_pictures(sr: Path, rl: Path) -> None:
    """Crops beside the records of super-resolution, and a video beside those of policies."""
    images = []
    for name in ("cat", "house"):
        crops = []
        for shade, label in enumerate(LABELS):
            file = f"crops/{name}/{label.replace(' ', '-')}.png"
            (sr / file).parent.mkdir(parents=True, exist_ok=True)
            (sr / file).write_bytes(picture(shade))
            crops.append({"label": label, "file": file, "psnr": None if shade == 0 else 30.0 + shade})
        images.append({"name": name, "credit": "somebody, CC0", "crops": crops})
    (sr / "crops/index.json").write_text(json.dumps({"measured": "PSNR on Y", "images": images}))
    (sr / "showcase.json").write_text(json.dumps({"recipe": "sandwich", "seed": 0, "hash": "0"}))
    (rl / "video.gif").write_bytes(picture(1, "gif"))


def picture(shade: int, kind: str = "png") -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (40 * shade, 90, 200 - 30 * shade)).save(buffer, kind)
    return buffer.getvalue()


def write_small(results: Path) -> None:
    """A folder of super-resolution and one of policies, with all that a page can show."""
    write_pictures(write_all(sr_records(), results), write_all(rl_records(), results))
