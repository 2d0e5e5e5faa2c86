"""Networks that are kept with the results stand in for those that a run would train."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import networks
from benchmarks.records.record import read_records
from benchmarks.run import main
from slimlib.saving import read_recipe

RUN = [
    "task=classification",
    "task.model=resnet8",
    "ablation=calibration",
    "steps=3",
    "seeds=[0]",
    "task.widths=[0.5,1.0]",
]
ONLY = 'only=["16 batches","1 batch"]'


def test_a_kept_network_is_scored_as_the_trained_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*RUN, ONLY, f"results={tmp_path}"]
    assert main(words) == 0
    folder = tmp_path / "classification/calibration/tiny"
    before = {record.recipe: record.rows for record in read_records(folder / "records")[0]}
    assert networks.main(words) == 0
    (kept,) = (tmp_path / "networks").glob("*.safetensors")
    assert read_recipe(kept)["seed"] == 0 and read_recipe(kept)["rule"] == "sandwich"
    shutil.rmtree(folder)
    assert main(words) == 0
    assert {record.recipe: record.rows for record in read_records(folder / "records")[0]} == before
    (trained,) = (folder / "cache/trained").glob("*.pt")
    own = torch.load(trained, weights_only=True)["state"]["net"]
    assert own.keys() == load_file(kept).keys(), "trained again: it has no statistics of narrow widths"


def test_a_run_without_trained_networks_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert networks.main([*RUN, ONLY, f"results={tmp_path}"]) == 1
    assert "1 batch, seed 0: not trained here" in capsys.readouterr().out
    assert not (tmp_path / "networks").exists()


@pytest.mark.nightly
def test_plans_are_found_in_a_kept_network_of_another_ablation(tmp_path: Path) -> None:
    def run(*words: str) -> list[str]:
        shared = ["task=classification", "scale=tiny", "steps=3", "seeds=[0]", f"results={tmp_path}"]
        return [*shared, "task.widths=[0.25,0.5,1.0]", *words]

    per_input = run("ablation=dynamic", 'only=["two widths, by chance"]')
    assert main(per_input) == 0 and networks.main(per_input) == 0
    (kept,) = (tmp_path / "networks").glob("*.safetensors")
    shutil.rmtree(tmp_path / "classification")
    undistilled = "ablation.of_task.classification={distill: none, data: null, weight: null}"
    assert main(run("ablation=search", "only=[uniform]", undistilled, "ablation.slimmable.budgets=[0.5]")) == 0
    (trained,) = (tmp_path / "classification/search/tiny/cache/trained").glob("*.pt")
    own = torch.load(trained, weights_only=True)["state"]["net"]
    assert own.keys() == load_file(kept).keys(), "trained again: it has no statistics of narrow widths"
