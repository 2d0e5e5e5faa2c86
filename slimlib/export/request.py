"""The arguments of `export`, checked before anything runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from slimlib.core.arguments import arguments
from slimlib.core.norms.batchnorm import refuse_uncalibrated
from slimlib.core.setting import at_width, whole_network
from slimlib.core.slimming import Slimming
from slimlib.core.width import Width, check_is, label
from slimlib.export.inputs import Inputs
from slimlib.export.onnx_file import check_installed
from slimlib.serving.extraction import extract

FORMATS = ONNX, TORCH, ANY_WIDTH = "onnx", "torch", "onnx-any-width"
Metrics = Mapping[Width, Mapping[str, float]]


@runtime_checkable
class Cascade(Protocol):
    """What is exported of a `slimlib.Cascade`."""

    widths: tuple[Width, ...]
    thresholds: tuple[float, ...]
    confidence: Any

    def stages(self) -> list[int]:
        """The places of the widths that run."""
        ...


@dataclass(frozen=True)
class Request:
    """The arguments of `export`, checked as far as is possible without a run."""

    slimming: Slimming
    widths: Sequence[Width]
    inputs: Inputs
    formats: Sequence[str]
    fold: bool
    metrics: Metrics
    cascade: Cascade | None = None

    @staticmethod
    def of(
        net: nn.Module,
        widths: Sequence[Width],
        example: Any,
        *,
        formats: Sequence[str],
        dynamic: Mapping[int, str],
        fold: bool,
        metrics: Metrics,
        cascade: Cascade | None = None,
    ) -> Request:
        """Check the arguments of `export`, which documents what they are and what is raised."""
        slimming = whole_network(net)
        slimming.check_all(widths)
        _check_formats(formats, len(widths))
        _check_widths(slimming, widths)
        _check_metrics(metrics, widths)
        if cascade is not None:
            _check_cascade(cascade, widths, formats)
        inputs = Inputs.of(_to(torch.device("cpu"), arguments(slimming.net(), example)), dynamic)
        request = Request(slimming, widths, inputs, formats, fold, metrics, cascade)
        if request.needs_onnx:
            check_installed()
        return request

    @property
    def needs_onnx(self) -> bool:
        return ONNX in self.formats or ANY_WIDTH in self.formats

    def plain(self, width: Width) -> nn.Module:
        """The dense network of a width, to be traced: on the CPU, in eval mode, without gradients."""
        root = self.slimming.net()
        device = next((t.device for t in (*root.parameters(), *root.buffers())), torch.device("cpu"))
        return _to_trace(extract(root, width, _to(device, self.inputs.args), fold=self.fold))

    def unfolded(self, width: Width) -> nn.Module:
        """The same, made without running anything."""
        return _to_trace(extract(self.slimming.net(), width))


def _to_trace(net: nn.Module) -> nn.Module:
    return net.cpu().eval().requires_grad_(False)


def _to(device: torch.device, example: Any) -> Any:
    moved: Any = tree_map_only(Tensor, lambda t: t.detach().to(device), example)
    return moved


def _check_formats(formats: Sequence[str], count: int) -> None:
    several = isinstance(formats, Collection) and not isinstance(formats, str)
    if not several or not formats or not all(name in FORMATS for name in formats):
        raise ValueError(
            f"formats={formats!r}: give any of {', '.join(FORMATS)}, for example formats=('onnx', 'torch')"
        )
    if "onnx-any-width" in formats and count == 1:
        raise ValueError("'onnx-any-width' joins several widths in one file; for a single one use 'onnx'")


def _check_widths(slimming: Slimming, widths: Sequence[Width]) -> None:
    for place, width in enumerate(widths):
        if width in widths[:place]:
            raise ValueError(f"width {label(width)} is given twice")
        with at_width(slimming.net(), width):
            for part in slimming.parts:
                refuse_uncalibrated(part.module)


def _check_cascade(cascade: Cascade, widths: Sequence[Width], formats: Sequence[str]) -> None:
    check_is(Cascade, "a slimlib.Cascade", cascade=cascade)
    missing = [label(cascade.widths[stage]) for stage in cascade.stages() if cascade.widths[stage] not in widths]
    if missing:
        raise ValueError(f"the cascade runs at {', '.join(missing)}, which is not exported; add it to widths")
    if not isinstance(cascade.confidence, str):
        raise ValueError(
            "the confidence of this cascade is a function, which no file can hold; "
            "fit one by 'max_probability', 'margin' or 'entropy'"
        )
    if set(formats) == {ANY_WIDTH}:
        raise ValueError("a cascade runs one file after another; add 'onnx' or 'torch' to formats")


def _check_metrics(metrics: Metrics, widths: Sequence[Width]) -> None:
    if not isinstance(metrics, Mapping) or not all(isinstance(values, Mapping) for values in metrics.values()):
        raise ValueError(f"metrics={metrics!r} must be of the form {{0.5: {{'top1_error': 24.0}}}}, by width and name")
    for width, values in metrics.items():
        if width not in widths:
            raise ValueError(f"metrics has {width!r}, which is not exported; widths: {', '.join(map(label, widths))}")
        for name, value in values.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"metric {name!r} of width {label(width)} must be a finite number, not {value!r}")
