"""A short training on packaged photographs lands where it did when the band was stored."""

from __future__ import annotations

from pathlib import Path

import yaml

from benchmarks.records import read_records
from benchmarks.run import main

BAND: dict[float, tuple[float, float]] = yaml.safe_load((Path(__file__).parent / "sr_tiny.yaml").read_text())


def test_a_short_training_is_in_the_stored_band(tmp_path: Path) -> None:
    recipes = "ablation.recipes=[{name:sandwich,rule:sandwich}]"
    assert main(["steps=200", "seeds=[0]", recipes, "device=cpu", f"results={tmp_path}"]) == 0
    (record,), damaged = read_records(tmp_path / "sr" / "sandwich" / "tiny" / "records")
    assert not damaged
    reached = {row.width: row.metrics["photos"]["psnr"] for row in record.rows}
    assert set(reached) == set(BAND)
    for width, (low, high) in BAND.items():
        assert low <= reached[width] <= high, f"width {width}: {reached[width]:.2f} dB is not in [{low}, {high}]"
    assert sorted(reached, key=reached.__getitem__) == sorted(reached), "wider is better"
