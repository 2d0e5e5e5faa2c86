"""What each width costs on this device: `profile` measures, `widest_within` chooses."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimlib.core.arguments import arguments
from slimlib.core.setting import at_width, current_width, in_eval, set_width
from slimlib.core.width import Width, WidthPlan, by_size, check_whole, is_number, label
from slimlib.serving.cost import timed


@runtime_checkable
class HasQuality(Protocol):
    """What has settings of its own from cheap, 0, to good, 1, in place of widths: a `slimlib.Cascade`."""

    net: nn.Module
    quality: float

    def __call__(self, *args: Any) -> Any: ...


def adjust(net: Any, to: Width) -> None:
    """Set the width of a network, or the quality of what has one."""
    if isinstance(net, HasQuality):
        net.quality = to  # type: ignore[assignment]
    else:
        set_width(net, to)


@dataclass(frozen=True)
class WidthProfile:
    """One width, measured.

    Attributes:
        milliseconds: median of one forward pass.
        p95: the milliseconds within which 19 of 20 passes ended.
        throughput: inputs a second, counting every item of the batch.
        peak_bytes: most memory that a pass held at once beyond weights and input.
    """

    width: Width
    milliseconds: float
    p95: float
    throughput: float
    peak_bytes: int


@dataclass(frozen=True)
class Profile:
    """The widths of a network on one device, from narrow to wide. Prints as a table."""

    rows: tuple[WidthProfile, ...]
    device: str
    threads: int
    rounds: int

    def __getitem__(self, width: Width) -> WidthProfile:
        for row in self.rows:
            if row.width == width:
                return row
        raise KeyError(
            f"width {label(width)} was not profiled; profiled: {', '.join(label(r.width) for r in self.rows)}"
        )

    def __str__(self) -> str:
        lines = [f"{self.device}, {self.threads} threads, {self.rounds} rounds, widths in turns"]
        lines.append(f"{'width':>8}  {'median ms':>10}  {'p95 ms':>10}  {'inputs/s':>10}  {'peak MB':>8}")
        for row in self.rows:
            numbers = f"{row.milliseconds:10.3f}  {row.p95:10.3f}  {row.throughput:10.1f}  {row.peak_bytes / 1e6:8.2f}"
            lines.append(f"{label(row.width):>8}  {numbers}")
        return "\n".join(lines)


def profile(
    net: nn.Module | HasQuality,
    example: Tensor | tuple[Any, ...],
    widths: Sequence[Width],
    *,
    rounds: int = 50,
    warmup: int = 5,
    threads: int | None = None,
) -> Profile:
    """Measure one forward pass at each width, in eval mode, in turns, so that a busy moment slows all of them alike.

    Args:
        net: a slimmable or frozen network; it keeps the width that is set. Profile a frozen one if you serve it. Of a
            cascade it is qualities, from 0 to 1, that are measured; the example is then a batch as it will arrive.
        example: its input [N, ...], the tuple of its arguments, or a dict of them by name.
        widths: to measure.
        rounds: passes of each width that count.
        warmup: passes of each width before them.
        threads: that torch uses while it measures; None: as many as are set now.

    Raises:
        ValueError: no widths, one that is not allowed, or an impossible number.
        UncalibratedWidth: a width has no BatchNorm statistics.
    """
    listed = isinstance(widths, Sequence) and all(is_number(w) or isinstance(w, WidthPlan) for w in widths)
    if not listed or not widths or len(set(widths)) < len(widths):
        raise ValueError(f"profile needs the widths to measure, each once, for example [0.25, 0.5, 1.0]; got {widths}")
    check_whole(rounds=(rounds, 2), warmup=(warmup, 0), threads=(1 if threads is None else threads, 1))
    inner = net.net if isinstance(net, HasQuality) else net
    net = copy.copy(net) if isinstance(net, HasQuality) else net  # which keeps its quality
    args = arguments(inner, example)
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    if not tensors:
        raise ValueError("profile needs an example input: a tensor [N, ...], or a tuple with one")
    device, batch = tensors[0].device, len(tensors[0])
    ordered = sorted(widths, key=by_size)
    with _threads(threads), at_width(inner, current_width(inner)), in_eval(inner), torch.inference_mode():
        seconds: dict[Width, list[float]] = {width: [] for width in ordered}
        for number in range(warmup + rounds):
            for width in ordered if number % 2 else reversed(ordered):
                adjust(net, width)
                took = timed(net, args, device)
                if number >= warmup:
                    seconds[width].append(took)
        rows = []
        for width in ordered:
            adjust(net, width)
            median = statistics.median(seconds[width])
            p95 = statistics.quantiles(seconds[width], n=20, method="inclusive")[-1]
            rows.append(
                WidthProfile(width, 1e3 * median, 1e3 * p95, batch / median, peak_bytes(lambda: net(*args), device))
            )
        return Profile(tuple(rows), str(device), torch.get_num_threads(), rounds)


def widest_within(measured: Profile, *, milliseconds: float) -> Width:
    """The widest width whose p95 is within a budget.

    Raises:
        ValueError: not even the narrowest is; the message says how long it takes.
        TypeError: `measured` is not a profile, or the budget is not a number.
    """
    check_profile(measured)
    if not is_number(milliseconds):
        raise TypeError(f"milliseconds={milliseconds!r} must be a number")
    fitting = [row.width for row in measured.rows if row.p95 <= milliseconds]
    if not fitting:
        narrowest = measured.rows[0]
        raise ValueError(
            f"no width is within {milliseconds:g} ms; the narrowest, {label(narrowest.width)}, takes "
            f"{narrowest.p95:.3g} ms (p95) on {measured.device}"
        )
    return max(fitting, key=by_size)


def check_profile(profile: object) -> None:
    """Raise TypeError unless this is what `profile` returned."""
    if not isinstance(profile, Profile):
        raise TypeError(f"the profile must be what slimlib.profile returned, and is of type {type(profile).__name__}")


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors that a call held at once, beyond those that were there before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as traced:
        run()
    held = most = 0
    profiler: Any = traced.profiler
    results = profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
