"""Post-statistics: BatchNorm mean and variance of each width, computed after training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from slimlib.core.arguments import arguments, check_batches, run_on
from slimlib.core.setting import at_width, current_width, in_eval, set_width, slimming_of
from slimlib.core.statistics import STATISTICS, OfWidth, drop_buffer, tracks
from slimlib.core.structures import tensors
from slimlib.core.swapping import Part, Swaps, dense_class
from slimlib.core.width import Width, is_number, label

Average = Literal["exact", "moving"]


@dataclass
class Moments:
    """Mean and sum of squared deviations of the values of each channel so far, in double precision."""

    count: Tensor | float = 0.0  # [C]
    mean: Tensor | float = 0.0  # [C]
    squares: Tensor | float = 0.0  # [C]

    def add(self, count: Tensor | float, mean: Tensor, variance: Tensor) -> None:
        """Join a batch of `count` values a channel with its mean [C] and unbiased variance [C]."""
        count = torch.as_tensor(count, dtype=torch.double, device=mean.device)
        self.join(Moments(count, mean.double(), variance.double() * (count - 1).clamp(min=0)))

    def join(self, other: Moments) -> None:
        """Take in the values that the other one has seen."""
        if not isinstance(self.count, Tensor):
            self.count, self.mean, self.squares = other.count, other.mean, other.squares
            return
        total = self.count + other.count
        share = other.count / total.clamp(min=1)
        moved = other.mean - self.mean
        self.mean = self.mean + moved * share
        self.squares = self.squares + other.squares + moved**2 * (self.count * share)
        self.count = total

    @property
    def variance(self) -> Tensor:
        assert isinstance(self.squares, Tensor) and isinstance(self.count, Tensor)
        return self.squares / (self.count - 1).clamp(min=1)


@dataclass
class MovingAverage:
    """The exponential moving average that BatchNorm itself keeps in training, but starting from the first batch.

    BatchNorm starts from mean 0 and variance 1, which still weigh 0.9 ** 16 = 19 % after 16 batches.
    """

    momentum: float
    count: Tensor | float = 0.0  # [C], batches
    mean: Tensor | float = 0.0  # [C]
    variance: Tensor | float = 0.0  # [C]

    def join(self, batch: Moments) -> None:
        """Move on by one batch."""
        assert isinstance(batch.count, Tensor)
        seen = batch.count > 0
        weight = seen * (1 - (1 - self.momentum) * (self.count > 0))
        self.mean = self.mean + (batch.mean - self.mean) * weight
        self.variance = self.variance + (batch.variance - self.variance) * weight
        self.count = self.count + seen


BatchMoments = dict[tuple[int, ...], list[Moments]]
"""What every BatchNorm of the network saw of one batch, by the channel numbers of all layers in a row.

Most networks run each layer once; where one runs again, a second entry holds what came from then on.
"""


class _Collector:
    """Collects the statistics of all widths from the forward passes of the BatchNorm layers.

    The layers are joined into one tensor: one by one they would take a tenth of the time of the forward pass.
    """

    def __init__(
        self,
        norms: Sequence[nn.Module],
        widths: Mapping[tuple[int, ...], Width],
        start: Callable[[], Moments | MovingAverage],
    ) -> None:
        self.norms, self.widths = norms, widths
        self.averages = {channels: start() for channels in widths}
        self._scratch: dict[tuple[int, ...], list[Swaps]] = {}
        self._now: list[Swaps] = []
        self._counts = [0] * len(norms)  # values per channel that each layer has seen since they were last taken
        self._passes: list[Moments] = []
        self._batches = 0

    def prepare(self, net: nn.Module) -> None:
        """Make room for what the layers will see."""
        for channels, width in self.widths.items():
            set_width(net, width)
            self._scratch[channels] = [_scratch(norm) for norm in self.norms]

    def run(self, net: nn.Module, batch: Any) -> BatchMoments:
        """What the layers see of a batch at each width."""
        self._batches += 1
        return {channels: self._run_at(channels, net, batch) for channels in self.widths}

    def join(self, ranks: Sequence[BatchMoments]) -> None:
        """Average what all ranks saw in their batches, which make up one batch."""
        for channels, average in self.averages.items():
            for same in zip_longest(*(seen[channels] for seen in ranks)):
                batch = Moments()
                for moments in filter(None, same):
                    batch.join(moments)
                average.join(batch)

    def check(self, seen: BatchMoments, number: int, net: nn.Module) -> None:
        """Raise ValueError, with the first layer that saw it, where what a batch gives is not finite."""
        for channels, passes in seen.items():
            for moments in passes:
                sums = torch.as_tensor(moments.mean + moments.squares)
                if sums.sum().isfinite():
                    continue
                sizes = [len(swaps[STATISTICS[0]]) for swaps in self._scratch[channels]]
                wrong = [not bool(part.isfinite().all()) for part in sums.split(sizes)]
                norm = self.norms[wrong.index(True)]
                name = next(name for name, module in net.named_modules() if module is norm)
                raise ValueError(
                    f"calibrate: batch number {number} gives layer '{name}' a mean or variance that is not finite, at "
                    f"width {label(self.widths[channels])}; leave it out, or look for what is NaN or inf in it or in "
                    "the weights"
                )

    def results(self, channels: tuple[int, ...]) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
        """Each layer that ran, with its mean [C] and variance [C]."""
        average = self.averages[channels]
        sizes = [len(swaps[STATISTICS[0]]) for swaps in self._scratch[channels]]
        rows = [torch.as_tensor(row).split(sizes) for row in (average.count, average.mean, average.variance)]
        for norm, count, mean, variance in zip(self.norms, *rows, strict=True):
            if count[0] > 0:
                yield norm, mean, variance

    def before(self, position: int, norm: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Hook of each layer, by its position, before it runs."""
        if self._counts[position]:
            self._take()  # it runs again, and overwrites
        entering = tensors((args, kwargs))[0]
        count = entering.numel() // entering.shape[1]
        if count == 1:
            raise ValueError(
                f"batch number {self._batches} has one value for each channel of a {dense_class(type(norm)).__name__} "
                f"{list(entering.shape)}, which has no variance; leave it out, with DataLoader(..., drop_last=True)"
            )
        self._counts[position] = count

    def _run_at(self, channels: tuple[int, ...], net: nn.Module, batch: Any) -> list[Moments]:
        set_width(net, self.widths[channels])
        self._now, self._passes = self._scratch[channels], []
        for norm, swaps in zip(self.norms, self._now, strict=True):
            norm.__dict__.update(swaps)
        run_on(net, arguments(net, batch))
        self._take()
        return self._passes

    def _take(self) -> None:
        """Add what the layers have seen since the last call."""
        mean, variance = (_in_a_row([swaps[name] for swaps in self._now]) for name in STATISTICS)
        sizes = torch.tensor([len(swaps[STATISTICS[0]]) for swaps in self._now])
        seen = Moments()
        seen.add(torch.tensor(self._counts).repeat_interleave(sizes), mean, variance)
        self._passes.append(seen)
        self._counts = [0] * len(self.norms)


def _scratch(norm: nn.Module) -> Swaps:
    """With this in its `__dict__` a layer writes the statistics of the next batch alone, where we can read them."""
    channels: Any = norm.num_features
    empty = _statistics(norm).new_zeros(channels)
    statistics = dict(zip(STATISTICS, (empty, torch.ones_like(empty)), strict=True))
    batches = torch.zeros((), dtype=torch.long)  # SyncBatchNorm counts them, and asks for nothing else
    return {"track_running_stats": True, "num_batches_tracked": batches, "momentum": 1.0, **statistics}


def _in_a_row(tensors: Sequence[Tensor]) -> Tensor:
    """All of them as one, where the first is."""
    return torch.cat([t.to(tensors[0].device) for t in tensors])


def calibrate(
    net: nn.Module,
    batches: Iterable[Any],
    widths: Sequence[Width],
    *,
    average: Average = "exact",
    momentum: float = 0.1,
) -> None:
    """Compute the BatchNorm statistics of some widths, reading the data once.

    A network without BatchNorm needs none, and nothing is done. Statistics belong to the weights as
    they are now: after more training, calibrate again. Widths with the same channel numbers share one set. A BatchNorm
    that no batch reaches, like that of an expert without tokens, uses the statistics of the full width.

    The first calibration of a width adds buffers. torch's `AveragedModel` matches buffers by position: during a
    training calibrate a copy, `copy.deepcopy(ema)`, or calibrate all widths once before you make the average.

    With several processes of torch.distributed, call it in all of them, with the same widths and different batches: all
    get the same statistics, of all batches together.

    Args:
        net: a slimmable network with universal or switchable BatchNorm.
        batches: inputs [N, ...] (or tuples of the arguments of forward), without labels.
        widths: the widths to compute for.
        average: "exact", mean and (unbiased) variance over all values of all batches, or "moving",
            an exponential moving average over the batches, begun with the first; the first ones of all
            processes make up one batch, then the second ones, and so on.
        momentum: of the moving average.

    Raises:
        ValueError: no batch, one that forward does not accept, one with a single value for each channel, or with
            numbers that are not finite; no list of widths, or a width that is not allowed; norm "shared", which has one
            set for all; a momentum outside (0, 1]; processes with different widths or, "moving", different numbers of
            batches.

    Source: Yu & Huang 2019 (US-Nets), sec. 3.1 and eq. 5.
    """
    slimming = slimming_of(net)
    norms = [part.module for part in slimming.parts if tracks(part.module)]
    if not is_number(momentum) or not 0 < momentum <= 1:
        raise ValueError(f"momentum={momentum!r} must be above 0 and at most 1")
    if average not in ("exact", "moving"):
        raise ValueError(f"average {average!r} does not exist; choose 'exact' or 'moving'")
    slimming.check_all(widths)
    check_batches("batches", batches)
    if not norms:
        return
    if not slimming.norm.has_statistics_of_widths:
        raise ValueError(
            f"norm '{slimming.norm}' keeps one set of statistics for all widths; convert with norm='universal'"
        )
    start = Moments if average == "exact" else partial(MovingAverage, momentum)
    collector = _Collector(norms, {slimming.channels_at(width): width for width in widths}, start)
    if isinstance(net, DistributedDataParallel):
        net = net.module  # whose forward does not wait for other ranks, which may have fewer batches
    with _collecting(net, collector):
        _read(net, batches, collector, even=average == "moving")
    for channels, width in collector.widths.items():
        slimming.remember(width)
        for norm, mean, variance in collector.results(channels):
            write_statistics(norm, None if channels == slimming.layout.full else channels, mean, variance)
        for part in slimming.parts if channels != slimming.layout.full else ():
            if tracks(part.module) and str(OfWidth(STATISTICS[0], channels)) not in part.module._buffers:
                _take_full_statistics(part, channels)
        slimming.forget(channels)


def use_full_statistics(net: nn.Module, widths: Sequence[Width]) -> None:
    """Give widths the leading part of the full width's BatchNorm statistics, to show what calibration is worth.

    For comparison only: the true statistics of a narrow width differ, since each layer adds up fewer channels.
    """
    slimming = slimming_of(net)
    for channels in dict.fromkeys(slimming.channels_at(width) for width in widths):
        if channels == slimming.layout.full:
            continue
        for part in slimming.parts:
            if tracks(part.module):
                _take_full_statistics(part, channels)
    for width in widths:
        slimming.remember(width)
    slimming.refresh()


def _take_full_statistics(part: Part, channels: tuple[int, ...]) -> None:
    full = [part.module._buffers[key] for key in STATISTICS]
    mean, variance = (part.active(value, channels).clone() for value in full if value is not None)
    write_statistics(part.module, channels, mean, variance)


def _read(net: nn.Module, batches: Iterable[Any], collector: _Collector, *, even: bool) -> None:
    """Show every batch, of all ranks, to the collector. `even`: the ranks must have equally many."""
    collector.prepare(net)
    seen = (collector.run(net, batch) for batch in batches)
    number = 0
    for number, of_ranks in enumerate(_over_ranks(seen), start=1):
        here = {rank: found for rank, found in enumerate(of_ranks) if found is not None}
        if even and len(here) < len(of_ranks):
            raise ValueError(
                f"calibrate got batch number {number} on rank {min(here)} but not on every rank; average='moving' "
                "needs as many batches on each. Use average='exact', or give each rank the same number."
            )
        if any(found.keys() != collector.widths.keys() for found in here.values()):
            raise ValueError("calibrate got different widths on different ranks; give the same widths on every rank")
        for found in here.values():
            collector.check(found, number, net)
        collector.join(list(here.values()))
    if not number:
        raise ValueError("calibrate got no batch; give an iterable of inputs, for example [x for x, _ in loader][:5]")


def _over_ranks(seen: Iterable[BatchMoments]) -> Iterator[list[BatchMoments | None]]:
    """What every rank saw in its next batch, until none has any left; None: no more on that rank.

    The ranks exchange after each batch, also when they have no more of their own, so that none waits forever.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        for found in seen:
            yield [found]
        return
    rest = iter(seen)
    while True:
        everyone: list[BatchMoments | None] = [None] * distributed.get_world_size()
        distributed.all_gather_object(everyone, tree_map_only(Moments, _on_cpu, next(rest, None)))
        if all(found is None for found in everyone):
            return
        yield everyone


def _on_cpu(moments: Moments) -> Moments:
    """From the memory of a GPU, which another process cannot read."""
    return Moments(*(torch.as_tensor(value).cpu() for value in (moments.count, moments.mean, moments.squares)))


@contextmanager
def _collecting(net: nn.Module, collector: _Collector) -> Iterator[None]:
    """Eval mode but for the BatchNorms, no gradients; afterwards everything is as it was."""
    norms = collector.norms
    momenta = [norm.__dict__["momentum"] for norm in norms]
    hooks = [
        norm.register_forward_pre_hook(partial(collector.before, i), with_kwargs=True) for i, norm in enumerate(norms)
    ]
    with at_width(net, current_width(net)), in_eval(net), torch.no_grad():
        for norm in norms:
            norm.training = True
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.__dict__["momentum"] = momentum
                for name in norm._buffers:
                    norm.__dict__.pop(name, None)


def _statistics(norm: nn.Module) -> Tensor:
    buffer = norm._buffers["running_mean"]
    assert buffer is not None
    return buffer


def write_statistics(norm: nn.Module, channels: tuple[int, ...] | None, mean: Tensor, variance: Tensor) -> None:
    """Give a BatchNorm the statistics of these channel numbers of its network; None: the full ones."""
    for key, given in zip(STATISTICS, (mean, variance), strict=True):
        value, name = given.to(_statistics(norm)), key if channels is None else str(OfWidth(key, channels))
        if (there := norm._buffers.get(name)) is not None:
            there.copy_(value)
        else:
            drop_buffer(norm, name)
            norm.register_buffer(name, value)
