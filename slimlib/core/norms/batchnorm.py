"""BatchNorm layers of a slimmable network: they refuse to run at a width that has no statistics."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimlib.core.statistics import STATISTICS, OfWidth, drop_buffer
from slimlib.core.swapping import SwapsOut


class UncalibratedWidth(RuntimeError):
    """A width has no BatchNorm statistics, so its output in eval mode would be meaningless."""


class SlimBatchNorm(SwapsOut):
    """Mixin of a BatchNorm in a slimmable network: refuses eval at a width without statistics.

    Source: Yu & Huang 2019 (US-Nets), sec. 3.1 (post-statistics); Yu et al. 2019, sec. 3.2 (switchable).
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.training and self.running_mean is None:
            refuse_uncalibrated(self)
        return super().forward(*args, **kwargs)  # type: ignore[misc]

    def _load_from_state_dict(self: Any, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Calibrated statistics come and go with what is loaded."""
        for name in list(self._buffers):
            of = OfWidth.parse(name)
            if of and prefix + name not in state_dict and str(OfWidth("weight", of.channels)) not in self._parameters:
                drop_buffer(self, name)
        for key in [key for key in state_dict if key.startswith(prefix)]:
            of, value = OfWidth.parse(name := key[len(prefix) :]), state_dict[key]
            if of and of.key in STATISTICS and name not in self._buffers and isinstance(value, Tensor):
                self.register_buffer(name, torch.empty_like(value, device=self._buffers["running_mean"].device))
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[misc]
        if self.slimming is not None:
            self.slimming.dirty = True


class PlainBatchNorm(SlimBatchNorm):
    """The same for torch's own BatchNorm, whose eval mode is one call."""

    def forward(self: Any, input: Tensor) -> Tensor:
        if self.training:
            output: Tensor = super().forward(input)
            return output
        mean = self.running_mean
        if mean is None:
            refuse_uncalibrated(self)
        self._check_input_dim(input)
        return F.batch_norm(input, mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def refuse_uncalibrated(module: nn.Module) -> None:
    """Raise UncalibratedWidth, with the call that helps, for a BatchNorm without statistics at the width set."""
    if isinstance(module, SlimBatchNorm) and getattr(module, "running_mean", None) is None:
        assert module.slimming is not None
        raise UncalibratedWidth(module.slimming.refusal())
