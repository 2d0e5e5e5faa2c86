"""Inference at batch size one: in place, frozen and extracted, against the dense network of each width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import build, channel_rule
from benchmarks.perf.timing import ratio, take_turns, typical

FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
IN_PLACE_LIMITS = {"MobileNet v1": 1.05, "MobileNet v2": 1.05, "ResNet-50": 1.15}


def inference(
    name: str, *, widths: Sequence[float], size: int, rounds: int, formats: Sequence[str] = tuple(FORMATS)
) -> Iterator[Measurement]:
    """Ratios at each width and memory format, of `size` x `size` images."""
    for shown in formats:
        memory = FORMATS[shown]
        torch.manual_seed(0)
        images = torch.randn(8, 3, size, size).to(memory_format=memory)
        full = build(name).to(memory_format=memory)
        net = slim.convert(full, images[:1], **channel_rule(full)).eval()
        narrow = [w for w in widths if w < 1.0]
        slim.calibrate(net, [images], widths=narrow)
        frozen = slim.freeze(net, widths=list(widths))
        image = images[:1].contiguous(memory_format=memory)
        for width in widths:
            yield from _at(name, net, frozen, image, width, setting=f"width {width:g}, {shown}", rounds=rounds)


def _at(
    name: str, net: nn.Module, frozen: nn.Module, image: Tensor, width: float, *, setting: str, rounds: int
) -> Iterator[Measurement]:
    extracted = slim.extract(net, width)
    dense = dense_twin(name, width, extracted, image)
    slim.set_width(net, width)
    slim.set_width(frozen, width)
    runs = {"in place": net, "frozen": frozen, "extracted": extracted, "dense": dense}
    with torch.inference_mode():
        expected = dense(image)
        for run in runs.values():
            torch.testing.assert_close(run(image), expected, rtol=1e-3, atol=1e-4)
        times = take_turns({key: lambda run=run: run(image) for key, run in runs.items()}, rounds=rounds)
    limits = {"in place": IN_PLACE_LIMITS.get(name), "frozen": 1.00, "extracted": 1.01}
    seconds = typical(times["dense"])
    for key, limit in limits.items():
        yield Measurement(f"inference {key}", name, setting, ratio(times, key, "dense"), limit=limit, seconds=seconds)


def dense_twin(name: str, width: float, extracted: nn.Module, image: Tensor) -> nn.Module:
    """The individually built network of a width, with the weights that the slimmable one has there."""
    channels_last = image.is_contiguous(memory_format=torch.channels_last)
    dense = build(name, width).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    dense.load_state_dict(extracted.state_dict())
    return dense.eval()
