"""BatchNorm of a slimmable network: shared, switchable, or universal with post-statistics.

Statistics depend on everything upstream, so they belong to the channel numbers of the whole
network. They live in buffers (and, switchable, parameters) named after those numbers, so that
`state_dict`, `.to()` and checkpoints carry them; the full width keeps the plain names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimlib.core.swapping import STATISTICS, Swaps, SwapsOut

Norm = Literal["universal", "switchable", "shared"]


class UncalibratedWidth(RuntimeError):
    """A width has no BatchNorm statistics, so its output in eval mode would be meaningless."""


def tag(channels: Sequence[int]) -> str:
    """The suffix of the statistics that belong to these channel numbers of the network."""
    return "at_" + "_".join(map(str, channels))


class SlimBatchNorm(SwapsOut):
    """Mixin of a BatchNorm in a slimmable network: refuses eval at a width without statistics.

    Source: Yu & Huang 2019 (US-Nets), sec. 3.1 (post-statistics); Yu et al. 2019, sec. 3.2 (switchable).
    """

    def forward(self: Any, x: Tensor) -> Tensor:
        if not self.training and self.running_mean is None:
            refuse_uncalibrated(self)
        return super().forward(x)  # type: ignore[misc, no-any-return]

    def _load_from_state_dict(self: Any, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Calibrated statistics come and go with what is loaded."""
        for name in [n for n in self._buffers if n.startswith(tuple(f"{s}_at_" for s in STATISTICS))]:
            if prefix + name not in state_dict and f"{prefix}weight_{name.split('_', 2)[2]}" not in self._parameters:
                drop_buffer(self, name)
        for key in [k for k in state_dict if k.startswith(tuple(f"{prefix}{s}_at_" for s in STATISTICS))]:
            if (name := key[len(prefix) :]) not in self._buffers and isinstance(value := state_dict[key], Tensor):
                self.register_buffer(name, torch.empty_like(value, device=self._buffers["running_mean"].device))
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[misc]
        if self.slimming is not None:
            self.slimming.dirty = True


class PlainBatchNorm(SlimBatchNorm):
    """The same for torch's own BatchNorm, whose eval mode is one call."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        mean = self.running_mean
        if mean is None:
            refuse_uncalibrated(self)
        self._check_input_dim(x)
        return F.batch_norm(x, mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def refuse_uncalibrated(module: nn.Module) -> None:
    """Raise UncalibratedWidth, with the call that helps, for a BatchNorm without statistics at the width set."""
    if isinstance(module, SlimBatchNorm) and getattr(module, "running_mean", None) is None:
        assert module.slimming is not None
        raise UncalibratedWidth(module.slimming.refusal())


def is_private(name: str) -> bool:
    """Whether a parameter or buffer belongs to one other width only."""
    return name.startswith(tuple(f"{key}_at_" for key in ("weight", "bias", *STATISTICS)))


def drop_buffer(layer: nn.Module, name: str) -> None:
    layer.__dict__.pop(name, None)
    layer._buffers.pop(name, None)


def tracks(module: nn.Module) -> bool:
    """Whether this is a BatchNorm with running statistics, the only one that depends on calibration."""
    return isinstance(module, _BatchNorm) and module._buffers.get("running_mean") is not None


def statistics_swaps(layer: nn.Module, norm: Norm, channels: tuple[int, ...]) -> Swaps:
    """What a BatchNorm has in place of its sliced affine and statistics, at a width below the full one."""
    if norm == "shared":
        return {}
    name = tag(channels)
    if norm == "switchable":
        own = {key: layer._parameters.get(f"{key}_{name}") for key in ("weight", "bias")}
        return own | {key: layer._buffers[f"{key}_{name}"] for key in STATISTICS}
    # With track_running_stats off, training uses the batch and leaves the post-statistics alone.
    return {key: layer._buffers.get(f"{key}_{name}") for key in STATISTICS} | {"track_running_stats": False}


def add_switch(layer: nn.Module, channels: tuple[int, ...], active: Callable[[Tensor], Tensor]) -> None:
    """Give a BatchNorm its private affine and statistics for a switch: copies of those of the active channels."""
    name = tag(channels)
    for key in ("weight", "bias"):
        if (shared := layer._parameters.get(key)) is not None:
            private = nn.Parameter(active(shared.detach()).clone(), requires_grad=shared.requires_grad)
            layer.register_parameter(f"{key}_{name}", private)
    for key in STATISTICS:
        if (buffer := layer._buffers[key]) is not None:
            layer.register_buffer(f"{key}_{name}", active(buffer).clone())
