"""Post-statistics: BatchNorm mean and variance of each width, computed after training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimlib.batchnorm import drop_buffer, tag, tracks
from slimlib.layout import axis_index
from slimlib.setting import current_width, set_width, slimming_of
from slimlib.slimming import label
from slimlib.swapping import STATISTICS, Part
from slimlib.width import Width, check_width

Average = Literal["exact", "moving"]


@dataclass
class Moments:
    """Mean and sum of squared deviations of everything that a BatchNorm saw, in double precision."""

    count: int = 0
    mean: Tensor | float = 0.0  # [C]
    squares: Tensor | float = 0.0  # [C]

    def add(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Join a batch of `count` values a channel with its mean [C] and unbiased variance [C]."""
        mean, squares = mean.double(), variance.double() * (count - 1)
        total = self.count + count
        moved = mean - self.mean
        self.mean = self.mean + moved * (count / total)
        self.squares = self.squares + squares + moved**2 * (self.count * count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        assert isinstance(self.squares, Tensor)
        return self.squares / max(self.count - 1, 1)


@dataclass
class _Collector:
    """Takes the statistics of one width off the forward passes of its BatchNorm layers."""

    average: Average
    momentum: float
    scratch: dict[nn.Module, dict[str, Tensor]] = field(default_factory=dict)
    moments: dict[nn.Module, Moments] = field(default_factory=dict)

    def swap_in(self, norms: Sequence[nn.Module]) -> None:
        """Let every layer write the statistics of the next batch where we can read them."""
        for norm in norms:
            norm.__dict__.update(track_running_stats=True, num_batches_tracked=None)
            norm.__dict__["momentum"] = 1.0 if self.average == "exact" else self.momentum
            norm.__dict__.update(self.scratch.get(norm) or dict.fromkeys(STATISTICS))

    def before(self, norm: nn.Module, args: tuple[Any, ...]) -> None:
        if norm not in self.scratch:
            x: Tensor = args[0]
            empty = x.new_zeros(x.shape[1], dtype=_statistics_dtype(norm))
            self.scratch[norm] = dict(zip(STATISTICS, (empty, torch.ones_like(empty)), strict=True))
            norm.__dict__.update(self.scratch[norm])

    def after(self, norm: nn.Module, args: tuple[Any, ...], _out: Any) -> None:
        count = args[0].numel() // args[0].shape[1]
        seen = self.scratch[norm]
        if self.average == "exact":
            self.moments.setdefault(norm, Moments()).add(count, *(seen[name] for name in STATISTICS))

    def result(self, norm: nn.Module) -> tuple[Tensor, Tensor] | None:
        """Mean [C] and variance [C]; None where the layer never ran."""
        if norm not in self.scratch:
            return None
        if self.average == "moving":
            return self.scratch[norm]["running_mean"], self.scratch[norm]["running_var"]
        moments = self.moments[norm]
        assert isinstance(moments.mean, Tensor)
        return moments.mean, moments.variance


def calibrate(
    net: nn.Module,
    batches: Iterable[Any],
    widths: Sequence[Width],
    *,
    average: Average = "exact",
    momentum: float = 0.1,
) -> None:
    """Compute the BatchNorm statistics of widths, all of them in one reading of the data.

    A network without BatchNorm needs none, and nothing is done. Statistics belong to the weights as
    they are now: after more training, calibrate again. Widths with the same channel numbers share one set.

    Args:
        net: a slimmable network with universal or switchable BatchNorm.
        batches: inputs [N, ...] (or tuples of the arguments of forward), without labels.
        widths: the widths to compute for.
        average: "exact", mean and (unbiased) variance over all values of all batches, or "moving",
            an exponential moving average over the batches.
        momentum: of the moving average.

    Raises:
        ValueError: no batch, no width, a width that is not allowed, or norm "shared", which has one set for all.

    Source: Yu & Huang 2019 (US-Nets), sec. 3.1 and eq. 5.
    """
    slimming = slimming_of(net)
    norms = [part.module for part in slimming.parts if tracks(part.module)]
    if average not in ("exact", "moving"):
        raise ValueError(f"average {average!r} does not exist; choose 'exact' or 'moving'")
    if not widths:
        raise ValueError("calibrate got no widths; give for example widths=[0.25, 0.5, 1.0]")
    for width in widths:
        check_width(width, slimming.widths)
    if not norms:
        return
    if slimming.norm == "shared":
        raise ValueError("norm 'shared' keeps one set of statistics for all widths; convert with norm='universal'")
    wanted = {slimming.channels_at(width): (width, _Collector(average, momentum)) for width in widths}
    with _collecting(net, norms):
        empty = True
        for batch in batches:
            empty = False
            for width, collector in wanted.values():
                _run(net, norms, batch, width, collector)
    if empty:
        raise ValueError("calibrate got no batch; give an iterable of inputs, for example [x for x, _ in loader][:5]")
    for channels, (width, collector) in wanted.items():
        slimming.labels[tag(channels).removeprefix("at_")] = label(width)
        for norm in norms:
            if (found := collector.result(norm)) is not None:
                _write(norm, "" if channels == slimming.layout.full else "_" + tag(channels), *found)
    slimming.refresh()


def use_full_statistics(net: nn.Module, widths: Sequence[Width]) -> None:
    """Give widths the leading part of the full width's BatchNorm statistics: what is lost without calibration.

    Only for comparison: the statistics of a width differ, since fewer channels are added up in every layer.
    """
    slimming = slimming_of(net)
    for channels in dict.fromkeys(slimming.channels_at(width) for width in widths):
        if channels == slimming.layout.full:
            continue
        for part in slimming.parts:
            if tracks(part.module):
                _write(part.module, "_" + tag(channels), *(_leading(part, name, channels) for name in STATISTICS))
    for width in widths:
        slimming.labels[tag(slimming.channels_at(width)).removeprefix("at_")] = label(width)
    slimming.refresh()


def _leading(part: Part, name: str, channels: tuple[int, ...]) -> Tensor:
    slot = next(slot for slot in part.slots if slot.name == name)
    full = slot.store[name]
    assert full is not None
    index = axis_index(slot.axes[0], channels) if slot.axes else len(full)
    return full[:index].clone() if isinstance(index, int) else full[index.to(full.device)]


def _run(net: nn.Module, norms: list[nn.Module], batch: Any, width: Width, collector: _Collector) -> None:
    set_width(net, width)
    collector.swap_in(norms)
    hooks = [norm.register_forward_pre_hook(collector.before) for norm in norms]
    hooks += [norm.register_forward_hook(collector.after) for norm in norms]
    try:
        net(*batch) if isinstance(batch, tuple) else net(batch)
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _collecting(net: nn.Module, norms: list[nn.Module]) -> Iterator[None]:
    """Eval mode but for the BatchNorms, no gradients; afterwards everything is as it was."""
    modes = {module: module.training for module in net.modules()}
    momenta = [norm.__dict__["momentum"] for norm in norms]
    before = current_width(net)
    net.eval()
    for norm in norms:
        norm.training = True
    try:
        with torch.no_grad():
            yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.__dict__["momentum"] = momentum
            for name in norm._buffers:
                norm.__dict__.pop(name, None)
        for module, mode in modes.items():
            module.training = mode
        set_width(net, before)


def _statistics_dtype(norm: nn.Module) -> torch.dtype:
    buffer = norm._buffers["running_mean"]
    assert buffer is not None
    return buffer.dtype


def _write(norm: nn.Module, suffix: str, mean: Tensor, variance: Tensor) -> None:
    for name, value in zip(STATISTICS, (mean, variance), strict=True):
        value = value.to(_statistics_dtype(norm))
        if (there := norm._buffers.get(name + suffix)) is not None:
            there.copy_(value)
        else:
            drop_buffer(norm, name + suffix)
            norm.register_buffer(name + suffix, value)
