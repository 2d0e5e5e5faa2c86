"""What `slim.export` takes, and how fast onnxruntime runs what it wrote."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import calibrated, dense_twin
from benchmarks.perf.runtimes import in_onnxruntime
from benchmarks.perf.timing import Spread, ratio, take_turns, typical

SECONDS = {"MobileNet v2": 60.0}  # that a whole export may take
FORMATS = ("onnx", "torch", "onnx-any-width")


def exporting(name: str, *, widths: Sequence[float], size: int, rounds: int) -> Iterator[Measurement]:
    """Seconds of one export in all formats, and the latency of its ONNX files over the dense network in torch."""
    images = torch.randn(8, 3, size, size)
    net, image = calibrated(name, images, widths), images[:1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported"
        took = {}
        for formats in (FORMATS[:2], FORMATS):  # the last one stays
            began = time.perf_counter()
            manifest = slim.export(net, path, list(widths), image, formats=formats)
            took[formats] = time.perf_counter() - began
        for formats, seconds in took.items():
            setting = f"{len(widths)} widths, {' and '.join(formats)}"
            yield Measurement("export", name, setting, Spread.of([seconds]), unit="s", limit=SECONDS.get(name))
        assert manifest.any_width is not None
        one_for_all = in_onnxruntime(path / manifest.any_width.name)
        for place, entry in enumerate(manifest.widths):
            width = widths[place]
            dense = dense_twin(name, width, slim.extract(net, width), image)
            alone = in_onnxruntime(path / entry.files["onnx"].name)
            yield from _latency(name, width, image, dense, alone, partial(one_for_all, place), rounds=rounds)


def _latency(
    name: str,
    width: float,
    image: torch.Tensor,
    dense: torch.nn.Module,
    alone: Callable[..., Any],
    joined: Callable[..., Any],
    *,
    rounds: int,
) -> Iterator[Measurement]:
    x = image.numpy()
    with torch.inference_mode():
        expected = dense(image).numpy()
        for run in (alone, joined):
            np.testing.assert_allclose(run(x), expected, rtol=1e-2, atol=1e-3)
        runs = {"dense": lambda: dense(image), "alone": lambda: alone(x), "joined": lambda: joined(x)}
        times = take_turns(runs, rounds=rounds)
    for setting, ours, theirs in (
        ("a file for each width", "alone", "dense"),
        ("one file for all widths, over a file for each", "joined", "alone"),
    ):
        value, seconds = ratio(times, ours, theirs), typical(times[theirs])
        yield Measurement("inference exported", name, f"width {width:g}, {setting}", value, seconds=seconds)
