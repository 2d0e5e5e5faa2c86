"""The networks that are timed, as plain torch modules whose channel numbers a width decides.

`build(name, width)` is the individually built dense network: its layers have the channel numbers
that `slimlib.convert` gives the full one at this width, by the rule of that network. Networks lie where their input
lies, in its memory format.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

import slimlib as slim
from slimlib import models
from slimlib.core.layout import Layout
from slimlib.core.setting import slimming_of
from slimlib.core.width import round_channels
from tasks.sr.networks import wdsr_a

CLASSIFIERS = {"MobileNet v1": "mobilenet_v1", "MobileNet v2": "mobilenet_v2", "ResNet-50": "resnet50"}
NETWORKS = (*CLASSIFIERS, "WDSR-A")
SMALL = "ResNet-8 x 2"
"""The network that the scale `small` of classification trains, and its images."""
TRAINING_SIZES = {
    "MobileNet v1": (128, 16),
    "MobileNet v2": (128, 16),
    "ResNet-50": (128, 16),
    "WDSR-A": (48, 8),
    SMALL: (32, 256),
}
"""Side and number of the images of a training step on a CPU."""
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def build(name: str, width: float = 1.0) -> nn.Module:
    """The dense network of this name, individually built for a width."""
    if name in CLASSIFIERS:
        return models.build(CLASSIFIERS[name], width=width)
    if name == SMALL:
        return models.build("resnet8", classes=10, size=64, multiplier=2.0, divisor=4, width=width)
    c = partial(round_channels, width=width)
    return wdsr_a(features=c(32), hidden=c(128), blocks=8, scale=2)


def channel_rule(net: nn.Module) -> dict[str, Any]:
    """The arguments of `slimlib.convert` by which it rounds the channels of `net` as `build` does."""
    return getattr(net, "channel_rule", {})


def suited(net: nn.Module, x: Tensor) -> nn.Module:
    """The network itself, moved to where its input lies, in the same memory format."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    memory = torch.channels_last if last else torch.contiguous_format
    return net.to(x.device, memory_format=memory)  # type: ignore[call-overload, no-any-return]


def slimmable(name: str, x: Tensor, **convert: Any) -> nn.Module:
    """The network, converted with this input [N, 3, H, W]; the same weights in each call."""
    torch.manual_seed(0)
    return slim.convert(suited(build(name), x), x[:2], layout=_layout(name), **convert)


@cache
def _layout(name: str) -> Layout:
    """What slims together: the same in every format and on every device, and the longest part of a conversion."""
    full = build(name)
    return slimming_of(slim.convert(full, torch.randn(2, 3, 64, 64), **channel_rule(full))).layout


def calibrated(name: str, x: Tensor, widths: Sequence[float]) -> nn.Module:
    """The slimmable network in eval mode, ready at these widths."""
    net = slimmable(name, x).eval()
    slim.calibrate(net, [x], widths=[width for width in widths if width < 1.0])
    return net


def dense_twin(name: str, width: float, extracted: nn.Module, x: Tensor) -> nn.Module:
    """The individually built network of a width, with the weights that the slimmable one has there.

    Its weights are stored as they are computed with: weight normalisation is taken off, as `extract` does.
    """
    dense = suited(build(name, width), x)
    for module in list(dense.modules()):
        if is_parametrized(module):
            remove_parametrizations(module, "weight")
    dense.load_state_dict(extracted.state_dict())
    return dense.eval()
