"""Individually built dense networks that carry the slices of a slimmable one, made without asking slimlib how.

The channel numbers of each twin are written down here by hand from how its class is built, and its
parameters are the leading parts of the full ones; only a concatenation needs to say more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.core.width import round_channels
from tests.networks import EDSR, MLP, WDSR, Concatenating, DepthwiseResidual, MobileNet, Residual, SqueezeExcite

Round = Callable[[int], int]

TWINS: Mapping[str, Callable[[Round], nn.Module]] = {
    "mobilenet": lambda r: MobileNet(stem=r(16), channels=(r(32), r(64))),
    "residual": lambda r: Residual(trunk=r(16), inner=(r(24), r(16), r(32)), last=r(40)),
    "depthwise_residual": lambda r: DepthwiseResidual(trunk=r(16), expand=(r(48), r(64)), head=r(64)),
    "concatenating": lambda r: Concatenating(stem=r(16), growth=(r(16), r(16), r(24))),
    "squeeze_excite": lambda r: SqueezeExcite(channels=r(32), squeeze=r(16), last=r(32)),
    "wdsr": lambda r: WDSR(features=r(32), wide=r(128), low=r(24)),
    "edsr": lambda r: EDSR(features=r(32), inner=(r(32), r(32)), up=r(32)),
    "mlp": lambda r: MLP(sizes=(8, r(64), r(48), 4)),
}
JOINED = {"concatenating": (16, 16, 16, 24)}  # full channels of what is concatenated, in order


def dense_twin(name: str, full: nn.Module, width: float, divisor: int) -> nn.Module:
    """The dense network of class `name` at a width, with the leading slices of the parameters of `full`."""

    def r(channels: int) -> int:
        return round_channels(channels, width, divisor)

    twin = TWINS[name](r)
    for module in twin.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    values = dict(full.named_parameters()) | dict(full.named_buffers())
    own: dict[str, Any] = dict(twin.named_parameters()) | dict(twin.named_buffers())
    for key, tensor in own.items():
        tensor.data = tensor.data.to(values[key].dtype)
        tensor.data.copy_(values[key].detach()[slices(name, values[key], tensor, r)])
    return twin


def slices(name: str, full: Tensor, small: Tensor, r: Round) -> tuple[Tensor, ...]:
    """Index of the part of a full parameter that a twin's parameter carries."""
    picks = [
        joined(name, size, r) if size > count else torch.arange(count)
        for size, count in zip(full.shape, small.shape, strict=True)
    ]
    picks = [p if len(p) == count else torch.arange(count) for p, count in zip(picks, small.shape, strict=True)]
    return torch.meshgrid(*picks, indexing="ij") if picks else ()


def joined(name: str, size: int, r: Round) -> Tensor:
    """Leading channels of each of the concatenated features, where an axis of `size` holds several."""
    begin, index = 0, []
    for part in JOINED.get(name, ()):
        if begin == size:
            break
        index += range(begin, begin + r(part))
        begin += part
    return torch.tensor(index, dtype=torch.long)
