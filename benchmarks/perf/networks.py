"""The networks that are timed, as plain torch modules whose channel numbers a width decides.

`build(name, width)` is the individually built dense network: its layers have the channel numbers
that `slimlib.convert` gives the full one at this width, by the rule of that network.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from slimlib import models
from slimlib.core.width import round_channels
from tasks.sr.networks import wdsr_a

CLASSIFIERS = {"MobileNet v1": "mobilenet_v1", "MobileNet v2": "mobilenet_v2", "ResNet-50": "resnet50"}
NETWORKS = (*CLASSIFIERS, "WDSR-A")
TRAINING_SIZES = {"MobileNet v1": (128, 16), "MobileNet v2": (128, 16), "ResNet-50": (128, 16), "WDSR-A": (48, 8)}
"""Side and number of the images of a training step."""


def build(name: str, width: float = 1.0) -> nn.Module:
    """The dense network of this name, individually built for a width."""
    if name in CLASSIFIERS:
        return models.build(CLASSIFIERS[name], width=width)
    c = partial(round_channels, width=width)
    return wdsr_a(features=c(32), hidden=c(128), blocks=8, scale=2)


def channel_rule(net: nn.Module) -> dict[str, Any]:
    """The arguments of `slimlib.convert` by which it rounds the channels of `net` as `build` does."""
    return getattr(net, "channel_rule", {})
