"""A width for each sample of a batch, over the full width for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import nn

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import build, channel_rule
from benchmarks.perf.timing import ratio, take_turns, typical
from slimlib.dynamic.routing import SmallestGroup

WIDTHS = (0.25, 0.5, 0.75, 1.0)
EVEN, SKEWED = (1, 1, 1, 1), (5, 1, 1, 1)  # samples of each width
NEVER_SLOWER = 1.03
MIXTURES: dict[str, Sequence[tuple[int, int, Sequence[int], float]]] = {
    "MobileNet v1": ((224, 8, EVEN, 0.50), (64, 64, EVEN, 0.60), (224, 8, SKEWED, 0.36)),
    "ResNet-50": ((224, 8, EVEN, 0.55),),
}
"""Pixels of a side, batch, mixture of the widths, limit."""
SMALL = (32, (1, 2, 4, 8))
"""Pixels, and batches, at which nothing may be slower than the full width."""


def routing(name: str, *, rounds: int) -> Iterator[Measurement]:
    """Ratios of the mixtures and of their parts, and of small batches of a small network."""
    for size, batch, mixture, limit in MIXTURES[name]:
        yield from _mixed(name, size, batch, mixture, limit=limit, rounds=rounds)
    size, batches = SMALL
    net, images = _served(name, size, max(batches))
    for batch in batches:
        widths = [WIDTHS[i % len(WIDTHS)] for i in range(batch)]
        times = _times(net, images[:batch], widths, "measured", rounds)
        setting = f"{size} px, batch {batch}, a width each, groups as measured"
        value, seconds = ratio(times, "routed", "full"), typical(times["full"])
        yield Measurement("routing", name, setting, value, limit=NEVER_SLOWER, seconds=seconds)


def _mixed(
    name: str, size: int, batch: int, mixture: Sequence[int], *, limit: float, rounds: int
) -> Iterator[Measurement]:
    net, images = _served(name, size, batch)
    widths = [w for w, count in zip(WIDTHS, mixture, strict=True) for _ in range(count * batch // sum(mixture))]
    shown = "even" if mixture == EVEN else "/".join(map(str, mixture))
    times = _times(net, images, widths, 1, rounds)
    value, seconds = ratio(times, "routed", "full"), typical(times["full"])
    setting = f"{size} px, batch {batch}, {shown}, {100 * _share(name, size, widths):.0f} % of the multiply-adds"
    yield Measurement("routing", name, setting, value, limit=limit, seconds=seconds)
    parts = ratio(times, "parts", "full")
    yield Measurement("routing", name, f"{size} px, batch {batch}, {shown}, sum of the parts", parts, seconds=seconds)


def _times(
    net: nn.Module, images: torch.Tensor, widths: Sequence[float], smallest: SmallestGroup, rounds: int
) -> dict[str, list[float]]:
    """Of routing, of the frozen network on the samples of each width, already apart, and of the full width."""
    parts = {width: images[[w == width for w in widths]] for width in dict.fromkeys(widths)}

    def run_parts() -> None:
        for width, part in parts.items():
            slim.set_width(net, width)
            net(part)

    def run_full() -> None:
        slim.set_width(net, 1.0)
        net(images)

    routed = partial(slim.route, net, images, widths, smallest_group=smallest)
    runs: dict[str, Callable[[], object]] = {"routed": routed, "parts": run_parts, "full": run_full}
    with torch.inference_mode():
        slim.set_width(net, 1.0)
        torch.testing.assert_close(slim.route(net, images, [1.0] * len(images)), net(images))
        return take_turns(runs, rounds=rounds)


def _served(name: str, size: int, batch: int) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    full = build(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net = slim.convert(full, images[:1], **channel_rule(full)).eval()
    slim.calibrate(net, [images[:8]], widths=[w for w in WIDTHS if w < 1.0])
    return slim.freeze(net, WIDTHS), images


def _share(name: str, size: int, widths: Sequence[float]) -> float:
    image = torch.empty(1, 3, size, size)
    macs = {width: slim.cost(build(name, width), image).macs for width in WIDTHS}
    return sum(macs[width] for width in widths) / (macs[1.0] * len(widths))
