"""Times of plans on this device: layers are measured at a grid of channel numbers, and interpolated between."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.core.layout import Layout
from slimlib.core.setting import slimming_of
from slimlib.core.whole_file import as_path
from slimlib.core.width import WidthPlan, check_whole
from slimlib.search.costs import Axes, as_channels
from slimlib.search.plan_file import check_groups, write_json
from slimlib.search.timing import grid, measured, places_of, random_plans, where

FORMAT = 1
LEVELS = 5  # channel numbers of a group that are measured


@dataclass(frozen=True)
class LayerTimes:
    """What was measured of one layer, or of what runs between two.

    axes: numbers of the axes on whose active channels the time depends, none to two.
    sizes: active channels of these at each measurement, [measurements, axes].
    milliseconds: the median of each measurement.
    """

    name: str
    axes: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    milliseconds: tuple[float, ...]


@dataclass(frozen=True)
class LatencyTable:
    """Times of the layers of a network, on one device with one number of threads; see `latency_table`.

    device, threads, dtype, shapes: where and on what it was measured.
    groups: name and units of each group of the network.
    layers: the measurements.
    rest: milliseconds of a pass that the layers do not explain, at the median.
    errors: of plans that were drawn at random, (predicted - measured) / measured.
    """

    device: str
    threads: int
    dtype: str
    shapes: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[str, int], ...]
    layers: tuple[LayerTimes, ...]
    rest: float
    errors: tuple[float, ...] = ()

    def milliseconds(self, net: nn.Module, plans: Sequence[WidthPlan]) -> Tensor:
        """The time of each plan of the network that was measured, [plans].

        Raises:
            ValueError: the network is another, or a plan does not fit it.
        """
        layout = slimming_of(net).layout
        return self.measure(layout)(as_channels(layout, plans))

    def measure(self, layout: Layout) -> Callable[[Tensor], Tensor]:
        """A function from channel numbers [plans, groups] to milliseconds [plans].

        Raises:
            ValueError: the layout is of another network.
        """
        check_groups("the table of times is", self.groups, layout)
        axes = Axes(layout)
        if any(axis >= len(axes.full) for layer in self.layers for axis in layer.axes):
            raise ValueError("the table of times is of another network: of layers that this one does not have")

        def milliseconds(channels: Tensor) -> Tensor:
            sizes = axes.sizes(channels).double()
            total = torch.full((len(sizes),), self.rest, dtype=torch.double)
            for places, coefficients in self._fitted.items():
                total += _terms(sizes[:, list(places)]) @ coefficients
            return total

        return milliseconds

    def check(self, net: nn.Module, example: Any) -> None:
        """Raise ValueError where this table does not tell the times of a network on an input, here and now."""
        check_groups("the table of times is", self.groups, slimming_of(net).layout)
        here = where(example)
        there = {name: getattr(self, name) for name in here}
        for name, value in here.items():
            if there[name] != value:
                raise ValueError(
                    f"the table of times is of another {WORDS[name]}: {there[name]} there, {value} here; times differ, "
                    "so measure here with slimlib.latency_table(net, example)"
                )

    @cached_property
    def digest(self) -> str:
        """Of all that was measured."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]

    @cached_property
    def _fitted(self) -> Mapping[tuple[int, ...], Tensor]:
        """Coefficients of the terms of the same axes, added up over the layers."""
        found: dict[tuple[int, ...], Tensor] = {}
        for layer in self.layers:
            terms = _terms(torch.tensor(layer.sizes, dtype=torch.double).view(len(layer.milliseconds), -1))
            times = torch.tensor(layer.milliseconds, dtype=torch.double)[:, None]
            coefficients = torch.linalg.lstsq(terms, times, driver="gelsd").solution[:, 0]
            found[layer.axes] = found.get(layer.axes, torch.zeros_like(coefficients)) + coefficients
        return found

    def save(self, path: str | Path) -> None:
        """Write the table as JSON.

        Raises:
            OSError: it cannot be written.
        """
        write_json(as_path(path), {"format": FORMAT, **asdict(self)})

    @staticmethod
    def load(path: str | Path) -> LatencyTable:
        """The table that `save` wrote.

        Raises:
            ValueError: it is not one.
        """
        try:
            data = json.loads(as_path(path).read_text())
            if data.pop("format") != FORMAT:
                raise ValueError(f"not of format {FORMAT}")
            layers = tuple(
                LayerTimes(
                    one["name"],
                    tuple(one["axes"]),
                    tuple(map(tuple, one["sizes"])),
                    tuple(one["milliseconds"]),
                )
                for one in data.pop("layers")
            )
            _check_times(layers, data["rest"])
            data |= {name: tuple(map(tuple, data[name])) for name in ("shapes", "groups")}
            return LatencyTable(**{**data, "errors": tuple(data["errors"])}, layers=layers)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a readable table of times: {error}") from None

    def __str__(self) -> str:
        lines = [f"{self.device}, {self.threads} threads, input {', '.join(map(str, self.shapes))}, {self.dtype}"]
        if self.errors:
            sizes = torch.tensor(self.errors).abs()
            lines.append(
                f"error on {len(sizes)} random plans: {sizes.mean():.1%} in the mean, {sizes.max():.1%} at most"
            )
        lines += [f"{layer.name:>40}  {max(layer.milliseconds):9.4f} ms at most" for layer in self.layers]
        return "\n".join(lines)


def _check_times(layers: Sequence[LayerTimes], rest: float) -> None:
    """Raise ValueError for what nobody has measured."""
    for layer in layers:
        if len(layer.sizes) != len(layer.milliseconds) or any(len(sizes) != len(layer.axes) for sizes in layer.sizes):
            raise ValueError(f"'{layer.name}' has other numbers of sizes, times and axes")
    if not all(map(math.isfinite, [rest, *(time for layer in layers for time in layer.milliseconds)])):
        raise ValueError("a time is not finite")


WORDS = {"device": "device", "threads": "number of threads", "dtype": "dtype", "shapes": "input"}


def latency_table(
    net: nn.Module,
    example: Any,
    *,
    levels: int = LEVELS,
    rounds: int = 5,
    check: int = 30,
    seed: int = 0,
) -> LatencyTable:
    """Measure how long each layer of a network takes on this device, at a grid of channel numbers.

    Whole forward passes are timed layer by layer, so that each layer finds the caches as it does in use. Every group
    takes some `levels` of channel numbers, and each layer meets all pairs of those of its inputs and outputs. Between
    them its time is interpolated by a constant, both numbers and their product. What runs between two layers depends on
    what the first puts out. Measure on an idle machine, with as many threads as will be used.

    Args:
        net: a slimmable network; afterwards as it was. Its statistics do not matter.
        example: an input (or a tuple of arguments) of the size, dtype and device to measure for.
        levels: channel numbers of each group.
        rounds: timed passes of each plan, each of the times that it comes up.
        check: random plans on which predictions are compared with measured passes of the whole network; the errors are
            in the result.
        seed: of these plans.

    Raises:
        ValueError: an impossible number, or a network that is compiled, runs other layers at other plans, or is one of
            switches alone.

    Source: Yang et al. 2018 (NetAdapt), sec. 3.3, tables of layers.
    """
    check_whole(levels=(levels, 2), rounds=(rounds, 1), check=(check, 0), seed=(seed, 0))
    if any(module._compiled_call_impl is not None or "_orig_mod" in module._modules for module in net.modules()):
        raise ValueError(
            "layers of a compiled network run together and cannot be timed one by one; measure the network as it was "
            "before torch.compile, and time the chosen plans compiled"
        )
    slimming = slimming_of(net)
    layout, axes = slimming.layout, Axes(slimming.layout)
    places = places_of(net, slimming, axes, example)
    plans = grid(layout, places, axes, levels)
    drawn = random_plans(layout, check, torch.Generator().manual_seed(seed))
    times, totals = measured(net, slimming, example, [*plans, *drawn], rounds)
    if any(len(row) != len(places) for row in times):
        raise ValueError(f"this {type(net).__name__} runs other layers at other plans; their times make no table")
    sizes = axes.sizes(torch.tensor(plans)).tolist()
    layers = tuple(
        LayerTimes(
            place.name,
            place.axes,
            tuple(tuple(row[axis] for axis in place.axes) for row in sizes),
            tuple(row[column] for row in times[: len(plans)]),
        )
        for column, place in enumerate(places)
    )
    rest = statistics.median(total - sum(row) for total, row in zip(totals, times[: len(plans)], strict=False))
    groups = tuple((group.name, group.units) for group in layout.groups)
    table = LatencyTable(**where(example), groups=groups, layers=layers, rest=rest)
    predicted = table.measure(layout)(torch.tensor(drawn).view(check, -1)).tolist() if drawn else []
    errors = tuple((guess - real) / real for guess, real in zip(predicted, totals[len(plans) :], strict=True))
    return replace(table, errors=errors)


def _terms(sizes: Tensor) -> Tensor:
    """One, each size, and their product: [measurements, axes] -> [measurements, terms]."""
    columns = [torch.ones(len(sizes), dtype=torch.double), *sizes.unbind(1)]
    return torch.stack([*columns, sizes.prod(1)] if sizes.shape[1] > 1 else columns, dim=1)
