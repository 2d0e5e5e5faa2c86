"""Inference at batch size one, against the dense network of each width.

In place, frozen and extracted; and folded and channels_last, as a device would run it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import build, channel_rule
from benchmarks.perf.timing import ratio, take_turns, typical

FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
FOLDED = "inference folded and channels_last"
FOLDED_LIMITS = {"MobileNet v1": 0.75, "MobileNet v2": 0.75, "WDSR-A": 0.90}
IN_PLACE_LIMITS = {"MobileNet v1": 1.05, "MobileNet v2": 1.05, "ResNet-50": 1.15}


def inference(
    name: str, *, widths: Sequence[float], size: int, rounds: int, formats: Sequence[str] = tuple(FORMATS)
) -> Iterator[Measurement]:
    """Ratios at each width and memory format, of `size` x `size` images."""
    for shown in formats:
        memory = FORMATS[shown]
        torch.manual_seed(0)
        images = torch.randn(8, 3, size, size).to(memory_format=memory)
        full = build(name).to(memory_format=memory)  # type: ignore[call-overload]
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
        times = take_turns({key: partial(run, image) for key, run in runs.items()}, rounds=rounds)
    limits = {"in place": IN_PLACE_LIMITS.get(name), "frozen": 1.00, "extracted": 1.01}
    seconds = typical(times["dense"])
    for key, limit in limits.items():
        yield Measurement(f"inference {key}", name, setting, ratio(times, key, "dense"), limit=limit, seconds=seconds)


def folded(name: str, *, widths: Sequence[float], size: int, rounds: int) -> Iterator[Measurement]:
    """Extracted and frozen with folded norms in channels_last, over a dense network that is neither.

    Also what of it is the memory format's doing: the dense network in channels_last over itself in the other.
    """
    torch.manual_seed(0)
    image = torch.randn(1, 3, size, size)
    full = build(name)
    net = slim.convert(full, image, **channel_rule(full)).eval()
    slim.calibrate(net, [torch.randn(8, 3, size, size)], widths=[w for w in widths if w < 1.0])
    last = image.to(memory_format=torch.channels_last)
    frozen = slim.freeze(_in_channels_last(net), list(widths), last)
    for width in widths:
        dense = dense_twin(name, width, slim.extract(net, width), image)
        compared = {
            "dense": (dense, image),
            "dense in channels_last": (_in_channels_last(dense), last),
            "extracted": (_in_channels_last(slim.extract(net, width, image, fold=True)), last),
            "frozen": (frozen, last),
        }
        slim.set_width(frozen, width)
        with torch.inference_mode():
            expected = dense(image)
            for run, x in compared.values():
                torch.testing.assert_close(run(x), expected, rtol=1e-2, atol=1e-3)
            times = take_turns({key: partial(run, x) for key, (run, x) in compared.items()}, rounds=rounds)
        seconds = typical(times["dense"])
        for key in ("extracted", "frozen", "dense in channels_last"):
            value, setting = ratio(times, key, "dense"), f"width {width:g}, {key}"
            limit = None if key.startswith("dense") else FOLDED_LIMITS.get(name)
            yield Measurement(FOLDED, name, setting, value, limit=limit, seconds=seconds)


def _in_channels_last(net: nn.Module) -> nn.Module:
    return deepcopy(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def dense_twin(name: str, width: float, extracted: nn.Module, image: Tensor) -> nn.Module:
    """The individually built network of a width, with the weights that the slimmable one has there.

    Its weights are stored as they are computed with: weight normalisation is taken off, as `extract` does.
    """
    channels_last = image.is_contiguous(memory_format=torch.channels_last)
    dense = build(name, width)
    if channels_last:
        dense = _in_channels_last(dense)
    for module in list(dense.modules()):
        if is_parametrized(module):
            remove_parametrizations(module, "weight")
    dense.load_state_dict(extracted.state_dict())
    return dense.eval()
