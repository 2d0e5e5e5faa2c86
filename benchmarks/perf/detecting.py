"""Faster R-CNN at each width, against the detector that was built for it: backbone with pyramid, and the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.timing import CPU, ratio, take_turns, typical
from slimlib import models
from tasks.detection.networks import Detector, Plan, Regions, build_detector

DETECTORS = {"Faster R-CNN": "resnet50"}
LIMIT = 1.03


def build(name: str, width: float = 1.0, *, side: int = 320) -> Detector:
    """The dense detector of a width, for images of `side` x `side`."""
    torch.manual_seed(0)
    model = DETECTORS[name]
    plan = Plan(sides=(side,), longest=side, proposals=(200, 100))
    return build_detector(models.build(model, classes=1, width=width), model, plan).eval()


def detecting(
    name: str, *, widths: Sequence[float], side: int, rounds: int, device: torch.device = CPU
) -> Iterator[Measurement]:
    """Ratios at each width of one image, in place and extracted."""
    image = torch.rand(3, side, side)
    net = build(name, side=side)
    slim.convert(net, ([image], None, Regions(2, 2)), divisor=net.divisor, keep=net.shared)
    net, image = net.to(device), image.to(device)
    slim.calibrate(net, [([image], None)], widths=[width for width in widths if width < 1.0])
    for width in widths:
        extracted = slim.extract(net, width)
        dense = build(name, width, side=side).to(device)
        dense.load_state_dict(extracted.state_dict())
        slim.set_width(net, width)
        compared = {"in place": net, "extracted": extracted, "dense": dense}
        for what, setting, limit in ((_backbone, "backbone with pyramid", LIMIT), (_whole, "whole", None)):
            with torch.inference_mode():
                for run in compared.values():
                    for own, other in zip(
                        _backbone(run, image).values(), _backbone(dense, image).values(), strict=True
                    ):
                        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-3)
                calls = {key: partial(what, run, image) for key, run in compared.items()}
                times = take_turns(calls, rounds=rounds, device=device)
            for key in ("in place", "extracted"):
                yield Measurement(
                    f"detection {key}", name, f"width {width:g}, {setting}", ratio(times, key, "dense"),
                    limit=limit if key == "extracted" else None, seconds=typical(times["dense"]),
                )  # fmt: skip


def _backbone(net: nn.Module, image: Tensor) -> dict[str, Tensor]:
    features: dict[str, Tensor] = net.backbone(image[None])  # type: ignore[operator]
    return features


def _whole(net: nn.Module, image: Tensor) -> object:
    return net([image])
