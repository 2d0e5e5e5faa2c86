"""An exported cascade says in the manifest which files run in which order, and until when."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import slimlib as slim
from slimlib.export import read_manifest

WIDTHS = [0.25, 0.5, 1.0]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)
    return slim.convert(nn.Sequential(*layers), torch.randn(2, 8)).eval()


@pytest.mark.parametrize(
    ("thresholds", "places", "written"),
    [
        ((0.8, 0.6), [0, 1, 2], [0.8, 0.6]),
        ((math.inf, 0.7), [1, 2], [0.7]),
        ((0.9, -math.inf), [0, 1], [0.9]),
        ((math.inf, math.inf), [2], []),
    ],
)
def test_the_manifest_has_order_and_thresholds(
    net: nn.Module, tmp_path: Path, thresholds: Any, places: list[int], written: list[float]
) -> None:
    cascade = slim.Cascade(net, WIDTHS, thresholds, confidence="margin")
    folder = tmp_path / "exported"
    slim.export(net, folder, WIDTHS, torch.randn(2, 8), formats=["torch"], cascade=cascade)
    entry = read_manifest(folder).cascade
    assert entry is not None and entry.confidence == "margin"
    assert (list(entry.widths), list(entry.thresholds)) == (places, written)
    assert list(entry.files) == [f"width-{WIDTHS[place]}.pt2" for place in places]
    x = torch.randn(30, 8)
    scores = torch.empty(30, 4)
    left = torch.arange(30)
    for name, least in zip(entry.files, [*entry.thresholds, -math.inf], strict=True):
        scores[left] = torch.export.load(folder / name).module()(x[left])
        top = scores[left].softmax(1).topk(2).values
        left = left[top[:, 0] - top[:, 1] < least]
    torch.testing.assert_close(scores, cascade(x), rtol=1e-4, atol=1e-5)


def test_manifests_without_a_cascade_are_read(net: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    slim.export(net, folder, [1.0], torch.randn(2, 8), formats=["torch"])
    assert read_manifest(folder).cascade is None
    path = folder / "manifest.json"
    older = {key: value for key, value in json.loads(path.read_text()).items() if key != "cascade"}
    path.write_text(json.dumps(older))
    assert read_manifest(folder).cascade is None


def test_what_cannot_be_exported(net: nn.Module, tmp_path: Path) -> None:
    cascade = slim.Cascade(net, WIDTHS, (0.8, 0.6))
    own = slim.Cascade(net, WIDTHS, (0.8, 0.6), confidence=lambda out: out[:, 0])
    x = torch.randn(2, 8)
    for given, widths, formats, says in (
        (cascade, [0.25, 1.0], ["torch"], "runs at 0.5, which is not exported; add it to widths"),
        (own, WIDTHS, ["torch"], "is a function, which no file can hold"),
        (cascade, WIDTHS, ["onnx-any-width"], "add 'onnx' or 'torch' to formats"),
    ):
        with pytest.raises(ValueError, match=says):
            slim.export(net, tmp_path / "exported", widths, x, formats=formats, cascade=given)
    assert not (tmp_path / "exported").exists()
