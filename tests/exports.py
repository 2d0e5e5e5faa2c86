"""What the tests of `slim.export` share: a slimmable network, and the outputs of the files made from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import slimlib as slim
from slimlib.core.width import Width
from tests.networks import NETWORKS

EVERY_FORMAT = ("onnx", "torch", "onnx-any-width")
IMAGE_SIZE = {2: "height", 3: "width"}


def slimmed(name: str, widths: Sequence[Width]) -> tuple[nn.Module, tuple[Any, ...]]:
    """A calibrated network of tests.networks, without zeros and ones that would hide a fault, and its arguments."""
    torch.manual_seed(0)
    dense, args = NETWORKS[name]()
    for tensor in dense.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape) * 0.1)
    net = slim.convert(dense, args).eval()
    slim.calibrate(net, [args], widths)
    return net, args


def expected(net: nn.Module, width: Width, args: tuple[Any, ...]) -> list[Tensor]:
    with slim.at_width(net, width), torch.no_grad():
        return tree_leaves(net(*args))


def from_onnx(file: Path, args: tuple[Any, ...], **more: Tensor) -> list[Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs() if value.name not in more]
    feeds = dict(zip(names, tree_leaves(args), strict=True)) | more
    return [torch.from_numpy(output) for output in session.run(None, {k: t.numpy() for k, t in feeds.items()})]


def from_torch(file: Path, args: tuple[Any, ...]) -> list[Tensor]:
    return tree_leaves(torch.export.load(file).module()(*args))


def from_every_file(folder: Path, manifest: Any, place: int, args: tuple[Any, ...]) -> dict[str, list[Tensor]]:
    """What each format gives for the width at this place."""
    files = manifest.widths[place].files
    return {
        "onnx": from_onnx(folder / files["onnx"].name, args),
        "torch": from_torch(folder / files["torch"].name, args),
        "onnx-any-width": from_onnx(folder / manifest.any_width.name, args, width_index=torch.tensor(place)),
    }


def assert_close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
