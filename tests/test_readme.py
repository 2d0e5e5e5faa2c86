"""What the README shows is what works, and what it says was measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_library_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    images = torch.randn(4, 3, 8, 8)
    seen = {
        "net": net,
        "images": images,
        "loader": [(images, torch.arange(4))] * 2,
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.01),
        "cross_entropy": cross_entropy,
    }
    exec(code, seen)
    assert torch.equal(seen["small"](images), net(images))
    assert (tmp_path / "net.safetensors").exists()


def test_every_bold_number_is_in_the_table_that_is_given_as_its_source() -> None:
    rows = [line for line in README.splitlines() if re.match(r"\| (Quality|Speed|Training) \|", line)]
    assert len(rows) == 3
    for row in rows:
        source = (ROOT / re.findall(r"\]\(([^)]+)\)", row)[0]).read_text()
        numbers = re.findall(r"\*\*([\d.]+)\*\*", row)
        assert numbers and [n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?![\d.])", source)] == []


def test_the_table_has_every_ablation_with_its_question() -> None:
    files = sorted((ROOT / "benchmarks/conf/ablation").glob("*.yaml"))
    assert files
    for file in files:
        question = yaml.safe_load(file.read_text())["question"]
        assert f"| `{file.stem}` | {question} |" in README


def test_ci_finds_the_command_for_the_tests() -> None:
    lines = [line for line in README.splitlines() if re.fullmatch(r"python3 -m venv .*tox", line)]
    assert len(lines) == 1
