"""One width of a network, run in all the ways that an engineer may choose from: time of an image, images a second.

Beside ours are torch's own dense network of that width, `torch.compile`, and onnxruntime and OpenVINO with the files
that `slim.export` writes, in float32 and in int8. All use one thread.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import calibrated, dense_twin, suited
from benchmarks.perf.runtimes import in_onnxruntime, in_openvino, missing, quantise
from benchmarks.perf.timing import Spread, cpu_time, take_turns

WHAT = "alternatives"
ERROR = "error of int8"
DENSE = "torch, dense"
INT8 = ("onnxruntime int8", "OpenVINO int8")
WAYS = (
    DENSE,
    "torch, dense channels_last",
    "slimlib in place",
    "slimlib frozen",
    "slimlib extracted",
    "torch.compile of frozen",
    "torch.compile of extracted",
    "onnxruntime float32",
    "onnxruntime int8",
    "OpenVINO float32",
    "OpenVINO int8",
)
"""Ours are channels_last, and frozen and extracted ones have their norms folded, as a device would run them."""
BATCHES = (1, 32)


def present(ways: Sequence[str] = WAYS) -> tuple[list[str], list[str]]:
    """The ways that this machine has, and a line for each that it lacks."""
    lacking = {way: need for way in ways if (need := missing(way.split()[0]))}
    return [way for way in ways if way not in lacking], [f"{way} skipped: no {need}" for way, need in lacking.items()]


def alternatives(
    name: str,
    *,
    widths: Sequence[float],
    size: int,
    rounds: int,
    batches: Sequence[int] = BATCHES,
    ways: Sequence[str] = WAYS,
) -> Iterator[Measurement]:
    """Milliseconds of one image and images a second of batches, at each width; and how far int8 is off."""
    images = torch.randn(max(*batches, 8), 3, size, size).contiguous(memory_format=torch.channels_last)
    net = calibrated(name, images[:8], widths)
    frozen = slim.freeze(net, list(widths), images[:1])
    with tempfile.TemporaryDirectory() as folder:
        files = _exported(net, widths, images, Path(folder) / "exported", ways)
        for width in widths:
            for batch in batches:
                runs = _runs(name, net, frozen, width, images[:batch], files[width], ways)
                yield from _compared(name, f"width {width:g}, batch {batch}", runs, batch, rounds)


def _compared(
    name: str, setting: str, runs: Mapping[str, Callable[[], object]], batch: int, rounds: int
) -> Iterator[Measurement]:
    """All ways at one width and batch, those in float32 with equal outputs."""
    with torch.inference_mode():
        expected = np.asarray(runs[DENSE]())
        for way, run in runs.items():
            output = np.asarray(run())
            if way in INT8:
                error = 100 * float(np.linalg.norm(output - expected) / np.linalg.norm(expected))
                yield Measurement(ERROR, name, f"{setting}, {way}", Spread.of([error]), unit="%")
            else:
                np.testing.assert_allclose(output, expected, rtol=1e-2, atol=1e-3, err_msg=way)
        times = take_turns(runs, rounds=max(rounds // 3, 1) if batch > 1 else rounds, clock=cpu_time)
    for way, seconds in times.items():
        shown, unit = ([1e3 * s for s in seconds], "ms") if batch == 1 else ([batch / s for s in seconds], "images/s")
        yield Measurement(WHAT, name, f"{setting}, {way}", Spread.of(shown), unit=unit)


def _runs(
    name: str,
    net: nn.Module,
    frozen: nn.Module,
    width: float,
    images: Tensor,
    files: Mapping[str, Path],
    ways: Sequence[str],
) -> dict[str, Callable[[], object]]:
    """What to call for each way; images are channels_last."""
    plain, array = images.contiguous(memory_format=torch.contiguous_format), images.contiguous().numpy()
    slim.set_width(net, width)
    slim.set_width(frozen, width)
    dense = dense_twin(name, width, slim.extract(net, width), plain)
    folded = suited(slim.extract(net, width, images[:1], fold=True), images)
    torch.compiler.reset()  # another width is another graph, and torch keeps only a few of one module
    compiled = partial(torch.compile, dynamic=False)
    made: dict[str, Callable[[], Callable[[], object]]] = {
        DENSE: lambda: partial(dense, plain),
        "torch, dense channels_last": lambda: partial(suited(deepcopy(dense), images), images),
        "slimlib in place": lambda: partial(net, images),
        "slimlib frozen": lambda: partial(frozen, images),
        "slimlib extracted": lambda: partial(folded, images),
        "torch.compile of frozen": lambda: partial(compiled(frozen), images),
        "torch.compile of extracted": lambda: partial(compiled(folded), images),
        "onnxruntime float32": lambda: partial(in_onnxruntime(files["float32"]), array),
        "onnxruntime int8": lambda: partial(in_onnxruntime(files["int8"]), array),
        "OpenVINO float32": lambda: partial(in_openvino(files["float32"]), array),
        "OpenVINO int8": lambda: partial(in_openvino(files["int8"]), array),
    }
    return {way: made[way]() for way in ways}


def _exported(
    net: nn.Module, widths: Sequence[float], images: Tensor, folder: Path, ways: Sequence[str]
) -> dict[float, dict[str, Path]]:
    """The ONNX files of each width: our export, and the same in int8 as far as somebody runs it."""
    if not any(way.startswith(("onnxruntime", "OpenVINO")) for way in ways):
        return {width: {} for width in widths}
    manifest = slim.export(net, folder, list(widths), images[:1], formats=("onnx",))
    files = {}
    for width, entry in zip(widths, manifest.widths, strict=True):
        files[width] = {"float32": folder / entry.files["onnx"].name}
        if set(INT8) & set(ways):
            target = folder / f"int8-{width:g}.onnx"
            files[width]["int8"] = quantise(files[width]["float32"], images[:8].split(1), target)
    return files
