"""As many records as one likes: `python -m tests.benchmarks.report.many_records <folder> 100000`."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.records.records_of import COSTS, record

WIDTHS = tuple(COSTS)


def write_many(results: Path, count: int, *, folders: int, seeds: int) -> None:
    """Write `count` records below `results`, the same for each folder, recipe and seed: as small as records are."""
    plain = json.loads(record("sandwich", 0, dict.fromkeys(WIDTHS, 30.0)).model_dump_json())
    drawn = random.Random(0)
    for number in range(count):
        folder, within = number % folders, number // folders
        recipe, seed = divmod(within, seeds)
        place = results / f"sr/ablation-{folder:03}/tiny/records"
        if not within:
            place.mkdir(parents=True)
        made = _changed(plain, f"ablation-{folder:03}", recipe, seed, drawn)
        (place / f"recipe-{recipe}-{seed}-{recipe:012x}.json").write_text(json.dumps(made))


def _changed(plain: dict[str, Any], ablation: str, recipe: int, seed: int, drawn: random.Random) -> dict[str, Any]:
    rows = [
        row | {"metrics": {"photos": {"psnr": 28 + recipe % 97 / 20 + 3 * row["width"] + drawn.random() / 5}}}
        for row in plain["rows"]
    ]
    name = f"recipe {recipe}" if recipe else "individual"
    kind = {"kind": "slimmable" if recipe else "individual"}
    own = {"ablation": ablation, "recipe": name, "position": recipe, "seed": seed, "hash": f"{recipe:012x}"}
    return plain | own | {"rows": rows, "training": kind}


if __name__ == "__main__":
    write_many(Path(sys.argv[1]), int(sys.argv[2]), folders=20, seeds=5)
