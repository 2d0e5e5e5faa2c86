"""NMS and RoIAlign in plain torch give what their definitions say, written out as loops."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from math import ceil, floor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.detection import operators

if importlib.util.find_spec("torchvision") is None:
    pytest.skip("needs torchvision: pip install -e '.[detection]'", allow_module_level=True)
tv = operators.torchvision()

BOX = st.tuples(*[st.integers(0, 12)] * 4).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def nms_in_loops(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(not overlap(boxes[i], boxes[j]) > threshold for j in kept):
            kept.append(i)
    return kept


def overlap(a: list[float], b: list[float]) -> float:
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - shared
    return shared / union if union else 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(BOX, st.integers(0, 5)), max_size=12), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_nms_keeps_what_loops_keep(found: list[tuple[tuple[int, ...], int]], threshold: float) -> None:
    boxes = torch.tensor([box for box, _ in found], dtype=torch.double).reshape(-1, 4)
    scores = torch.tensor([score for _, score in found], dtype=torch.double)
    assert operators.nms(boxes, scores, threshold).tolist() == nms_in_loops(boxes.tolist(), scores.tolist(), threshold)


def test_nms_follows_long_chains() -> None:
    """Each box overlaps the next alone, so that every other one stays, whatever the number of rounds."""
    left = torch.arange(300.0)
    boxes = torch.stack([left, torch.zeros(300), left + 1.8, torch.ones(300)], 1)
    assert operators.nms(boxes, -left, 0.2).tolist() == list(range(0, 300, 2))


def roi_align_in_loops(x: Tensor, roi: list[float], scale: float, size: tuple[int, int], ratio: int, aligned: bool):
    shift, (ph, pw) = 0.5 if aligned else 0.0, size
    x0, y0, x1, y1 = (side * scale - shift for side in roi[1:])
    width, height = x1 - x0, y1 - y0
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    nx = ratio if ratio > 0 else ceil(width / pw)
    ny = ratio if ratio > 0 else ceil(height / ph)
    out = x.new_zeros(x.shape[1], ph, pw)
    for i in range(ph):
        for j in range(pw):
            for a in range(ny):
                for b in range(nx):
                    y = y0 + (i + (a + 0.5) / ny) * height / ph
                    along = x0 + (j + (b + 0.5) / nx) * width / pw
                    out[:, i, j] += at(x[int(roi[0])], y, along) / max(1, nx * ny)
    return out


def at(image: Tensor, y: float, x: float) -> Tensor:
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(len(image))
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = floor(y), floor(x)
    low, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = image[:, top, left] * (1 - dx) + image[:, top, right] * dx
    return upper * (1 - dy) + (image[:, low, left] * (1 - dx) + image[:, low, right] * dx) * dy


SIDES = st.floats(-9, 40).map(lambda side: round(side, 2))
ROI = st.tuples(st.integers(0, 1), SIDES, SIDES, st.floats(0, 30), st.floats(0, 30))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(ROI, max_size=4),
    st.sampled_from([1.0, 0.5, 0.25]),
    st.sampled_from([-1, 0, 1, 2]),
    st.booleans(),
    st.sampled_from([(5, 7), (1, 1), (1, 6)]),
)
def test_roi_align_is_its_definition(rois, scale: float, ratio: int, aligned: bool, shape: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *shape, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    given_rois = torch.tensor([(n, a, b, a + w, b + h) for n, a, b, w, h in rois], dtype=torch.double).reshape(-1, 5)
    found = operators.roi_align(x, given_rois, scale, 3, 2, ratio, aligned)
    assert found.shape == (len(rois), 3, 3, 2)
    for output, roi in zip(found, given_rois.tolist(), strict=True):
        torch.testing.assert_close(output, roi_align_in_loops(x, roi, scale, (3, 2), ratio, aligned))


@pytest.mark.skipif(tv.extension._has_ops(), reason="the compiled operators are there")
def test_torchvision_calls_them() -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.double, requires_grad=True)
    rois = torch.tensor([[0, 1, 1, 6, 7], [1, 0, 2, 5, 5], [1, 3.5, 2, 9, 4]], dtype=torch.double)
    found = tv.ops.roi_align(x, rois, (2, 2), 1.0, 2)
    assert torch.equal(found, operators.roi_align(x, rois, 1.0, 2, 2, 2, False))
    assert torch.autograd.gradcheck(lambda x: tv.ops.roi_align(x, rois, (2, 2), 0.5, -1), (x,))
    none = tv.ops.roi_align(x, rois[:0], (2, 2), 1.0, 2)
    assert none.shape == (0, 3, 2, 2)
    assert torch.equal(torch.autograd.grad(none.sum(), x)[0], torch.zeros_like(x))
    boxes, scores = rois[:, 1:], rois[:, 0]
    assert tv.ops.nms(boxes, scores, 0.1).tolist() == nms_in_loops(boxes.tolist(), scores.tolist(), 0.1)


def test_a_normal_installation_is_left_alone(tmp_path: Path) -> None:
    """Beside a torchvision whose import passes, no operator is defined and nothing of it changes."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from tasks.detection.operators import torchvision\n"
        "import torch\n"
        "assert [n for n in vars(torchvision()) if not n.startswith('__')] == []\n"
        "assert not hasattr(torch.ops.torchvision, 'nms')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
