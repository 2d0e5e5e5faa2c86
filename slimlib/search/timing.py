"""Time the layers of a network within its forward passes, at plans that show each layer all of its sizes."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimlib.core.arguments import arguments
from slimlib.core.layout import Layout
from slimlib.core.norms.shared import Shared
from slimlib.core.setting import at_width, in_eval
from slimlib.core.slimming import Slimming
from slimlib.core.width import WidthPlan, round_channels
from slimlib.search.costs import Axes
from slimlib.search.weights import input_dim, is_depthwise, output_dim
from slimlib.serving.cost import computing_clock, wait_for

NARROWEST = 0.1  # width of the lowest level
WARMUP = 3  # passes of a plan that do not count
SWEEPS = 2  # over all plans, there and back


@dataclass(frozen=True)
class Place:
    """A layer that runs, or what runs between two; `axes` are those on whose sizes its time depends."""

    name: str
    axes: tuple[int, ...]


def where(example: Any) -> dict[str, Any]:
    """Device, threads, dtype and shapes that a measurement on an input belongs to."""
    tensors = tensors_of(example)
    device = tensors[0].device
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "dtype": str(tensors[0].dtype).removeprefix("torch."),
        "shapes": tuple(tuple(x.shape) for x in tensors),
    }


def tensors_of(example: Any) -> list[Tensor]:
    """The tensors of an example.

    Raises:
        ValueError: there is none.
    """
    found = [leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]
    if not found:
        raise ValueError("an example must be an input tensor, or a tuple of arguments with one")
    return found


def device_name(device: torch.device) -> str:
    """What the maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


class Clock:
    """Notes when each module without modules of its own begins and ends.

    One thread of a CPU is timed by the seconds that it computes, so that other processes matter less.
    """

    def __init__(self, net: nn.Module, device: torch.device) -> None:
        self.net, self.device = net, device
        self.now = computing_clock(device)
        self.modules: list[nn.Module] = []
        self._moments: list[float] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within the block forwards are noted."""
        handles = []
        for module in self.net.modules():
            if not module._modules:
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def time(self, args: tuple[Any, ...]) -> list[float]:
        """Milliseconds of one forward, by place: before the first layer, the first layer, before the second, ...

        Where nothing is `running`, of the whole.
        """
        self.modules, self._moments = [], []
        wait_for(self.device)
        begin = self.now()
        self.net(*args)
        wait_for(self.device)
        moments = [begin, *self._moments, self.now()]
        return [1e3 * (after - before) for before, after in pairwise(moments)]

    def _enter(self, module: nn.Module, _args: Any) -> None:
        self.modules.append(module)
        wait_for(self.device)
        self._moments.append(self.now())

    def _leave(self, *_: Any) -> None:
        wait_for(self.device)
        self._moments.append(self.now())


@contextmanager
def without_statistics(slimming: Slimming) -> Iterator[None]:
    """Within the block any plan runs in eval mode: narrow BatchNorms use the leading part of the full statistics."""
    norm, slimming.norm = slimming.norm, Shared()
    slimming.refresh()
    try:
        yield
    finally:
        slimming.norm = norm
        slimming.refresh()


def places_of(net: nn.Module, slimming: Slimming, axes: Axes, example: Any) -> list[Place]:
    """The layers of one forward in order, and what runs before, between and after them."""
    args = arguments(net, example)
    clock = Clock(net, tensors_of(example)[0].device)
    with in_eval(net), torch.inference_mode(), clock.running(), at_width(net, WidthPlan(slimming.layout.full)):
        clock.time(args)
    names = {module: name for name, module in slimming.net().named_modules()}
    passing: tuple[int, ...] = ()  # the axis of what the last layer put out
    places = []
    for module in clock.modules:
        name = names.get(module, type(module).__name__)
        places.append(Place(f"before {name}", passing))
        own = _own_axes(module, name, slimming.layout, axes)
        if own is not None:
            passing = own[:1]
            places.append(Place(name, tuple(dict.fromkeys(axis for axis in own if axis >= 0))))
            passing = tuple(axis for axis in passing if axis >= 0)
        else:
            places.append(Place(name, passing))
    return [*places, Place("after all", passing)]


def _own_axes(module: nn.Module, name: str, layout: Layout, axes: Axes) -> tuple[int, ...] | None:
    """Axes of a layer's outputs and inputs, -1 where they stay full; None for a module that has none of its own."""
    dims = {output_dim(module): 0, None if is_depthwise(module) else input_dim(module): 1}
    prefix = f"{name}.".lstrip(".")
    held = [found for key, found in layout.axes.items() if key.startswith(prefix)]
    if name in layout.norm_inputs:
        return (axes.number[layout.norm_inputs[name]],)
    if output_dim(module) is None:
        return (axes.number[held[0][0]],) if held and 0 in held[0] else None
    found = [-1, -1]
    for of_tensor in held:
        for dim, axis in of_tensor.items():
            if dim in dims:
                found[dims[dim]] = axes.number[axis]
    return tuple(found)


def grid(layout: Layout, places: Sequence[Place], axes: Axes, levels: int) -> list[tuple[int, ...]]:
    """Plans in which groups that meet in a layer have every pair of levels, as long as few meet.

    The plans are the points (i, j) of a square; each group follows a line through it in a direction of its own, and two
    directions meet in each pair of levels once where `levels` is a prime number.
    """
    directions = [(1, slope) for slope in range(levels)] + [(0, 1)]
    chosen = _coloured(layout, places, axes, len(directions))
    widths = torch.linspace(NARROWEST, 1, levels, dtype=torch.double).tolist()
    plans = []
    for i in range(levels):
        for j in range(levels):
            steps = [directions[c] for c in chosen]
            at = [widths[(a * i + b * j) % levels] for a, b in steps]
            plans.append(tuple(round_channels(g.units, w, g.divisor) for g, w in zip(layout.groups, at, strict=True)))
    return list(dict.fromkeys([layout.full, *plans]))


def _coloured(layout: Layout, places: Sequence[Place], axes: Axes, colours: int) -> list[int]:
    """A number for each group, others for those that meet in a layer, where there are enough."""
    groups_of = [axes.groups(axis) for axis in range(len(axes.full))]
    meeting: list[set[int]] = [set() for _ in layout.groups]
    for place in places:
        together = {group for axis in place.axes for group in groups_of[axis]}
        for group in together:
            meeting[group] |= together - {group}
    chosen: list[int] = []
    for group, others in enumerate(meeting):
        taken = {chosen[other] for other in others if other < group}
        free = [colour for colour in range(colours) if colour not in taken]
        chosen.append(free[0] if free else group % colours)
    return chosen


def measured(
    net: nn.Module, slimming: Slimming, example: Any, plans: Sequence[tuple[int, ...]], rounds: int
) -> tuple[list[list[float]], list[float]]:
    """Medians in milliseconds at each plan: of each place, and of passes that nothing watches.

    All plans are gone through several times, there and back, so that a busy moment does not fall on some alone. The
    passes of a plan follow one another, since the operations of a new shape are prepared at the first of them.
    """
    args = arguments(net, example)
    device = tensors_of(example)[0].device
    clock = Clock(net, device)
    by_place: list[list[list[float]]] = [[] for _ in plans]
    whole: list[list[float]] = [[] for _ in plans]
    with without_statistics(slimming), in_eval(net), torch.inference_mode():
        order = [*range(len(plans)), *reversed(range(len(plans)))] * SWEEPS
        for position in order:
            with at_width(net, WidthPlan(plans[position])):
                for _ in range(WARMUP):
                    net(*args)
                whole[position] += [sum(clock.time(args)) for _ in range(rounds)]
                with clock.running():
                    by_place[position] += [clock.time(args) for _ in range(rounds)]
    medians = [[statistics.median(column) for column in zip(*passes, strict=True)] for passes in by_place]
    return medians, [statistics.median(passes) for passes in whole]


def random_plans(layout: Layout, count: int, generator: torch.Generator) -> list[tuple[int, ...]]:
    """Plans in which each group draws its channel number, in steps of its divisor."""
    drawn = torch.rand(count, len(layout.groups), generator=generator, dtype=torch.double)
    return [
        tuple(g.divisor * (1 + int(d * (g.units // g.divisor))) for g, d in zip(layout.groups, row, strict=True))
        for row in drawn.tolist()
    ]
