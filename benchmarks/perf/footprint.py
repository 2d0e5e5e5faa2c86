"""What of a network's memory goes with its width, and what private BatchNorm adds to its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import build, calibrated, slimmable
from benchmarks.perf.timing import CPU, Spread
from slimlib.models.resnet import Residual
from slimlib.serving.profiling import peak_bytes


def footprint(name: str, *, widths: Sequence[float], size: int, device: torch.device = CPU) -> Iterator[Measurement]:
    """Peak memory of an inference at each width, and at full width with few blocks, over that of the whole network.

    Of one image, weights not counted. Also the parameters that a network with private BatchNorms for these widths has
    beyond the dense one.

    Source: Yu et al. 2019 (slimmable networks), sec. 1 on memory and depth, sec. 3.2 on private BatchNorm.
    """
    x = torch.randn(1, 3, size, size, device=device)
    net = calibrated(name, x, widths)
    full = _peak(net, x)
    for width in widths:
        if width < 1.0:
            yield _share("inference memory", name, f"width {width:g}", _peak(slim.extract(net, width), x) / full)
    layers = list(build(name).to(device).eval().get_submodule("features").children())
    kept = [layer for layer in layers if not isinstance(layer, Residual) or not isinstance(layer.shortcut, nn.Identity)]
    if len(kept) < len(layers):
        setting = f"full width, {len(kept) - 1} of {len(layers) - 1} blocks"
        yield _share("inference memory", name, setting, _peak(nn.Sequential(*kept), x) / full)
    private = slimmable(name, x, widths=slim.Switches(*widths), norm="switchable")
    more = _parameters(private) / _parameters(build(name)) - 1
    yield _share("parameters of private BatchNorms", name, f"{len(widths)} switches", more)


@torch.no_grad()
def _peak(net: nn.Module, x: Tensor) -> int:
    net(x)  # what is made once
    return peak_bytes(partial(net, x), x.device)


def _parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def _share(what: str, name: str, setting: str, share: float) -> Measurement:
    return Measurement(what, name, setting, Spread.of([100 * share]), unit="%")
