"""Inference at batch size one, against the dense network of each width, and changes of the width.

In place, frozen and extracted; and folded and channels_last, as a device would run it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import FORMATS, calibrated, dense_twin, suited
from benchmarks.perf.timing import CPU, Spread, Times, ratio, take_turns, typical

FOLDED = "inference folded and channels_last"
FOLDED_LIMITS = {"MobileNet v1": 0.75, "MobileNet v2": 0.75, "WDSR-A": 0.90}
IN_PLACE_LIMITS = {"MobileNet v1": 1.05, "MobileNet v2": 1.05, "ResNet-50": 1.15}
SWITCH_LIMITS = {"in place": 20.0, "frozen": 5.0}
Runs = Mapping[str, tuple[nn.Module, Tensor]]


def inference(
    name: str,
    *,
    widths: Sequence[float],
    size: int,
    rounds: int,
    formats: Sequence[str] = tuple(FORMATS),
    device: torch.device = CPU,
) -> Iterator[Measurement]:
    """Ratios at each width and memory format, of `size` x `size` images."""
    for shown in formats:
        images = torch.randn(8, 3, size, size).to(device, memory_format=FORMATS[shown])
        net = calibrated(name, images, widths)
        frozen = slim.freeze(net, widths=list(widths))
        image = images[:1].contiguous(memory_format=FORMATS[shown])
        limits = {"in place": IN_PLACE_LIMITS.get(name), "frozen": 1.00, "extracted": 1.01}
        for width in widths:
            extracted = slim.extract(net, width)
            dense = dense_twin(name, width, extracted, image)
            slim.set_width(net, width)
            slim.set_width(frozen, width)
            compared = {"in place": net, "frozen": frozen, "extracted": extracted, "dense": dense}
            times = _timed({key: (run, image) for key, run in compared.items()}, rounds, rtol=1e-3, atol=1e-4)
            setting, seconds = f"width {width:g}, {shown}", typical(times["dense"])
            for key, limit in limits.items():
                value = ratio(times, key, "dense")
                yield Measurement(f"inference {key}", name, setting, value, limit=limit, seconds=seconds)


def folded(
    name: str, *, widths: Sequence[float], size: int, rounds: int, device: torch.device = CPU
) -> Iterator[Measurement]:
    """Extracted and frozen with folded norms in channels_last, over a dense network that is neither.

    Also what of it is the memory format's doing: the dense network in channels_last over itself in the other.
    """
    images = torch.randn(8, 3, size, size).to(device)
    net = calibrated(name, images, widths)
    image, last = images[:1], images[:1].contiguous(memory_format=torch.channels_last)
    frozen = slim.freeze(suited(deepcopy(net), last), list(widths), last)
    for width in widths:
        dense = dense_twin(name, width, slim.extract(net, width), image)
        slim.set_width(frozen, width)
        compared = {
            "dense": (dense, image),
            "dense in channels_last": (suited(deepcopy(dense), last), last),
            "extracted": (suited(slim.extract(net, width, image, fold=True), last), last),
            "frozen": (frozen, last),
        }
        times = _timed(compared, rounds, rtol=1e-2, atol=1e-3)
        seconds = typical(times["dense"])
        for key in ("extracted", "frozen", "dense in channels_last"):
            value, setting = ratio(times, key, "dense"), f"width {width:g}, {key}"
            limit = None if key.startswith("dense") else FOLDED_LIMITS.get(name)
            yield Measurement(FOLDED, name, setting, value, limit=limit, seconds=seconds)


def _timed(runs: Runs, rounds: int, *, rtol: float, atol: float) -> Times:
    """Times of what gives the same output as the dense network; that is checked without TF32."""
    dense, image = runs["dense"]
    with torch.inference_mode():
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            expected = dense(image)
            for run, x in runs.values():
                torch.testing.assert_close(run(x), expected, rtol=rtol, atol=atol)
        calls = {key: partial(run, x) for key, (run, x) in runs.items()}
        return take_turns(calls, rounds=rounds, device=image.device)


def switching(name: str, *, size: int, rounds: int, device: torch.device = CPU) -> Iterator[Measurement]:
    """Microseconds of one `set_width` for channel numbers seen before, in training in place and on a frozen network."""
    net = calibrated(name, torch.randn(4, 3, size, size, device=device), [0.5])
    compared = {"in place": net, "frozen": slim.freeze(net, widths=[0.5, 1.0])}

    def there_and_back(target: nn.Module) -> None:
        slim.set_width(target, 0.5)
        slim.set_width(target, 1.0)

    times = take_turns({key: partial(there_and_back, target) for key, target in compared.items()}, rounds=rounds)
    for key, seconds in times.items():
        value = Spread.of([1e6 * s / 2 for s in seconds])
        yield Measurement("width switch", name, key, value, unit="us", limit=SWITCH_LIMITS[key])
