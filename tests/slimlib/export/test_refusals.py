"""What export refuses, each time by name and with nothing left behind."""

import re
import sys
from typing import NamedTuple

import pytest
import torch
from torch import nn

import slimlib as slim
from slimlib.export.manifest import read_manifest
from tests.exports import IMAGE_SIZE
from tests.networks import MLP, NETWORKS, MobileNet, image

X = torch.randn(2, 8)


def mlp(**settings):
    return slim.convert(MLP(), X, **settings).eval()


class Two(nn.Module):
    """Two linear layers, then whatever is tested."""

    def __init__(self, last=None):
        super().__init__()
        self.a, self.b, self.last = nn.Linear(8, 32), nn.Linear(32, 16), last

    def forward(self, x, y=0.0):  # [N, 8] -> [N, 16]
        x = self.b(self.a(x).relu()) + y
        return x if self.last is None else self.last(x)


class Inverse(nn.Module):
    def forward(self, x):  # [N, 16] -> [N, 4, 4]
        return torch.linalg.inv(x.unflatten(1, (4, 4)) + 9 * torch.eye(4))


class Branches(nn.Module):
    def forward(self, x):
        return x if x.shape[0] == 2 else -x


class Pairs(nn.Module):
    def forward(self, x):
        return x.view(-1, 2, 16).sum(1)


class Named(nn.Module):
    class Scores(NamedTuple):
        scores: torch.Tensor

    def forward(self, x):
        return self.Scores(x)


class Count(nn.Module):
    def forward(self, x):
        return x, 16


def two(last=None):
    return slim.convert(Two(last), X).eval()


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([], r"widths=\[\] must be a list of one width or more, such as"),
        (0.5, "widths=0.5 must be a list"),
        ([0.5, 0.1], "width 0.1 is outside what this network was converted for; allowed: 0.25 to 1"),
        ([0.5, 1, 0.5], "width 0.5 is given twice"),
        ([slim.WidthPlan([8])], "the WidthPlan has 1 numbers, and this network 2 groups"),
    ],
)
def test_widths(widths, message, tmp_path):
    net = mlp(widths=slim.WidthRange(0.25, 1.0))
    with pytest.raises(ValueError, match=message):
        slim.export(net, tmp_path / "out", widths, X)
    assert list(tmp_path.iterdir()) == []


def test_uncalibrated_width_says_what_mends_it(tmp_path):
    net = slim.convert(MobileNet(), image()).eval()
    with pytest.raises(slim.UncalibratedWidth, match=r"width 0.5 .*slimlib.calibrate\(net, batches, widths=\[0.5\]\)"):
        slim.export(net, tmp_path / "out", [1.0, 0.5], image())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.randn(2, 9), r"the example \[2, 9\] does not fit MLP: RuntimeError: mat1 and mat2"),
        ((X, X), r"the example \[2, 8\], \[2, 8\] does not fit MLP: TypeError"),
        ("image", "the example holds no tensor"),
        (torch.tensor(1.0), "every tensor of the example needs a first dimension, the batch, and values"),
        (torch.zeros(0, 8), r"and values; got \[0, 8\]"),
    ],
)
def test_examples_that_do_not_fit(example, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        slim.export(mlp(), tmp_path / "out", [0.5], example)
    assert list(tmp_path.iterdir()) == []


def test_inputs_with_different_batches(tmp_path):
    with pytest.raises(ValueError, match=r"must be the same in all; the example has \[2, 8\], \[1, 16\]"):
        slim.export(two(), tmp_path / "out", [0.5], (X, torch.zeros(1, 16)))


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (Pairs(), r"runs on the example \[2, 8\], and not with another batch, \[1, 8\]: RuntimeError"),
        (Branches(), "cannot follow the forward of Two: it only runs with a batch of 2"),
        (Named(), r"torch.export cannot save width-0.5.pt2: .*namedtuple class .*register.* use formats=\['onnx'\]"),
        (Count(), "Two returns int; export needs tensors"),
    ],
)
def test_forwards_that_depend_on_the_batch_or_return_no_tensors(last, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        slim.export(two(last), tmp_path / "out", [0.5], X, formats=["torch"])
    assert list(tmp_path.iterdir()) == []


def test_forward_that_looks_at_values(tmp_path):
    dense, args = NETWORKS["control_flow"]()
    net = slim.convert(dense, args).eval()
    with pytest.raises(ValueError, match=r"it goes another way for other values \(in `y = .* if y.mean\(\) > 0"):
        slim.export(net, tmp_path / "out", [0.5], args, formats=["torch"])


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({2: "height"}, r"dynamic has dimension 2; possible for inputs \[2, 8\]: 1 to 1"),
        ({0: "n"}, "dynamic has dimension 0"),
        ([2, 3], r"dynamic=\[2, 3\] must be of the form {2: 'height'"),
        ({1: "batch"}, "dynamic needs a name of its own for each dimension, and 0 is 'batch'"),
        (
            {1: "features"},
            r"MLP does not run with other sizes \(batch, features\), \[1, 16\]: .* Leave them out of dynamic",
        ),
    ],
)
def test_dynamic_sizes(dynamic, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        slim.export(mlp(), tmp_path / "out", [0.5], X, dynamic=dynamic)


def test_sizes_that_torch_alone_can_change(tmp_path):
    pytest.importorskip("onnxruntime")
    dense, args = NETWORKS["glu"]()  # pools to 4 x 4, which torch.onnx writes for the example's size only
    net = slim.convert(dense, args).eval()
    with pytest.raises(ValueError, match=r"onnxruntime cannot run width-0.5.onnx on inputs \[1, 3, 32, 48\]: "):
        slim.export(net, tmp_path / "out", [0.5], args, formats=["onnx"], dynamic=IMAGE_SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        (["onnx", "tflite"], "give any of onnx, torch, onnx-any-width"),
        ([], "give any of onnx"),
        ("onnx", "give any of onnx"),
        (7, "formats=7: give any of onnx"),
        ([["onnx"]], "give any of onnx"),
        (["onnx-any-width"], "joins several widths in one file; for a single one use 'onnx'"),
    ],
)
def test_formats(formats, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        slim.export(mlp(), tmp_path / "out", [0.5], X, formats=formats)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({0.25: {"top-1": 1.0}}, "metrics has 0.25, which is not exported; widths: 0.5"),
        ({"0.5": {"top-1": 1.0}}, "metrics has '0.5', which is not exported; widths: 0.5"),
        ({0.5: 24.0}, r"metrics={0.5: 24.0} must be of the form {0.5: {'top1_error': 24.0}}"),
        ({0.5: {"top-1": float("nan")}}, "metric 'top-1' of width 0.5 must be a finite number, not nan"),
    ],
)
def test_metrics(metrics, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        slim.export(mlp(), tmp_path / "out", [0.5], X, metrics=metrics)


def test_frozen_network(tmp_path):
    with pytest.raises(ValueError, match="frozen network is a snapshot for serving; give the network that it was made"):
        slim.export(slim.freeze(mlp(), [0.5]), tmp_path / "out", [0.5], X)


def test_operator_that_onnx_lacks_is_named_with_its_module(tmp_path):
    pytest.importorskip("onnxscript")
    message = (
        r"^ONNX has no operator for aten.linalg_inv_ex, which 'last' \(Inverse\) uses; replace it, or use formats="
    )
    with pytest.raises(ValueError, match=message):
        slim.export(two(Inverse()), tmp_path / "out", [0.5], X)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_missing_package(missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    message = re.escape(f"export to ONNX needs {missing}: pip install 'slimlib[export]'")
    with pytest.raises(ImportError, match=message):
        slim.export(mlp(), tmp_path / "out", [0.5], X)
    slim.export(mlp(), tmp_path / "out", [0.5], X, formats=["torch"])
    assert read_manifest(tmp_path / "out").opset is None
