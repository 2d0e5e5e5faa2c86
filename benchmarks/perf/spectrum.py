"""Many widths over the same images: scoring them, and calibrating them, against dense networks one after another."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import dense_twin, slimmable
from benchmarks.perf.timing import CPU, ratio, take_turns, typical
from slimlib.core.setting import slimming_of
from tasks.classification.evaluate import errors
from tasks.points import OperatingPoint
from tasks.training.recipe import evenly_spaced

SMALLEST = 0.25
Batches = list[tuple[Tensor, Tensor]]


def spectrum(
    name: str, *, widths: int, size: int, batch: int, batches: int, rounds: int, device: torch.device = CPU
) -> Iterator[Measurement]:
    """Time of scoring one network at many widths, and of calibrating them, over that of dense networks.

    The dense networks of the same channels pass the same images: in eval mode for the scores, in training mode
    without gradients, where BatchNorm computes its statistics, for the calibration. Images are in memory.
    """
    data = _batches(size, batch, batches, device)
    net, shown = _calibrated(name, data, widths)
    image = data[0][0]
    dense = {width: dense_twin(name, width, slim.extract(net, width), image) for width in shown}
    points = [OperatingPoint.of_width(width) for width in shown]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = [errors(twin, data, tops=[1])[0] for twin in dense.values()]
        if errors(net, data, points, tops=[1]) != expected:
            raise RuntimeError(f"{name}: the dense networks score differently from the slimmable one")
    runs = {
        "scores": lambda: errors(net, data, points, tops=[1]),
        "dense scores": lambda: [errors(twin, data, tops=[1]) for twin in dense.values()],
        "calibration": lambda: slim.calibrate(net, (x for x, _ in data), shown),
        "dense training": lambda: [_pass(twin, data) for twin in dense.values()],
    }
    times = take_turns(runs, rounds=rounds, device=device)
    setting = f"{len(shown)} widths, {batches} {'batch' if batches == 1 else 'batches'} of {batch}"
    for what, ours, theirs in (
        ("spectrum", "scores", "dense scores"),
        ("calibration", "calibration", "dense training"),
    ):
        seconds = typical(times[theirs])
        yield Measurement(what, name, setting, ratio(times, ours, theirs), limit=1.02, seconds=seconds)


def _batches(size: int, batch: int, count: int, device: torch.device) -> Batches:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(batch, device=device) % 1000
    images = (torch.randn(batch, 3, size, size, generator=generator) for _ in range(count))
    return [(x.to(device, memory_format=torch.channels_last), labels) for x in images]


def _calibrated(name: str, data: Batches, widths: int) -> tuple[nn.Module, list[float]]:
    """The slimmable network, and as many widths, each of another number of channels."""
    net = slimmable(name, data[0][0], widths=slim.WidthRange(SMALLEST))
    different = {slimming_of(net).channels_at(width): width for width in evenly_spaced(SMALLEST, 1.0, widths)}
    shown = list(different.values())
    slim.calibrate(net, [data[0][0]], shown)
    return net, shown


@torch.no_grad()
def _pass(net: nn.Module, data: Batches) -> None:
    net.train()
    for x, _ in data:
        net(x)
    net.eval()
