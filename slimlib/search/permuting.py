"""Give the units of a network's groups other places, in every tensor where their channels occur."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slimlib.core.layout import Axis, Layout, axis_index, axis_size
from slimlib.core.slimming import Slimming
from slimlib.core.statistics import STATISTICS, OfWidth, drop_buffer, tracks
from slimlib.core.swapping import Part
from slimlib.search.weights import units_on

Order = Sequence[Tensor]  # of each group: which unit comes to each place, [units]


def interchangeable(layout: Layout) -> list[Tensor]:
    """For every group the class of each unit, [units]: units of one class occur on the same axes, equally often.

    Where a layer reads half of what another made, say, units of the two halves cannot change places.
    """
    axes = [axis for dims in layout.axes.values() for axis in dims.values()] + list(layout.norm_inputs.values())
    classes = []
    for index, group in enumerate(layout.groups):
        holding = {axis for axis in axes if any(s.group == index for s in axis)}
        counts = [
            torch.bincount(u[u >= 0], minlength=group.units) for a in holding if (u := units_on(a, index)) is not None
        ]
        classes.append(torch.unique(torch.stack(counts), dim=1, return_inverse=True)[1])
    return classes


def permute(slimming: Slimming, order: Order, companions: Companions | None = None) -> None:
    """Move every unit to its place, in parameters, buffers, and what moves along.

    Statistics and switches of narrow widths move along where a width keeps its units; else they are statistics of
    other channels, and go, and a switch begins anew from the shared BatchNorm.
    """
    sources, companions = Sources(slimming.layout, order), companions or Companions()
    with torch.no_grad():
        _permute_shared(slimming, sources, companions)
        for part in slimming.parts:
            if tracks(part.module):
                _permute_private(slimming, part, sources, companions)
    slimming.sorted_times += 1
    slimming.refresh()


@contextmanager
def permuted(slimming: Slimming, order: Order) -> Iterator[None]:
    """Within the block the full network has its units at other places; afterwards everything is as it was."""
    back = [torch.argsort(o) for o in order]
    with torch.no_grad():
        _permute_shared(slimming, Sources(slimming.layout, order), Companions())
    try:
        yield
    finally:
        with torch.no_grad():
            _permute_shared(slimming, Sources(slimming.layout, back), Companions())


def keeps_units(order: Order, channels: Sequence[int]) -> bool:
    """Whether the leading units of every group, so many, are the same ones as before."""
    return all(int(o[:count].max()) < count for o, count in zip(order, channels, strict=True))


class Companions:
    """What moves along with a tensor: its gradient, what optimizers keep for its elements, and its averages.

    Args:
        averages: of the parameters, as `Rule.averages_of` has them; also the targets of a policy.
    """

    def __init__(
        self, optimizers: Sequence[Optimizer] = (), averages: Sequence[Mapping[nn.Parameter, Tensor]] = ()
    ) -> None:
        self._states = [optimizer.state for optimizer in optimizers]
        self._averages = averages

    def of(self, tensor: Tensor) -> Iterator[Tensor]:
        """The tensor and its companions."""
        yield tensor
        if tensor.grad is not None:
            yield tensor.grad
        kept = (value for state in self._states for value in state.get(tensor, {}).values())
        yield from (v for v in kept if isinstance(v, Tensor) and v.shape == tensor.shape and v.dim())
        yield from self._averages_of(tensor)

    def begin_anew(self, tensor: Tensor) -> None:
        """Forget what a tensor was: it has other values."""
        for state in self._states:
            state.pop(tensor, None)
        for average in self._averages_of(tensor):
            average.copy_(tensor)

    def _averages_of(self, tensor: Tensor) -> Iterator[Tensor]:
        return (a[tensor] for a in self._averages if isinstance(tensor, nn.Parameter) and tensor in a)


def check_state(slimming: Slimming, optimizer: Optimizer) -> None:
    """Raise ValueError for state whose channels cannot be found, since it is not shaped like its parameter."""
    names = {id(p): name for name, p in slimming.net().named_parameters()}
    for tensor, _ in _held(slimming):
        for key, value in optimizer.state.get(tensor, {}).items():
            if isinstance(value, Tensor) and value.dim() and value.shape != tensor.shape:
                raise ValueError(
                    f"{type(optimizer).__name__} keeps '{key}' {list(value.shape)} of '{names[id(tensor)]}' "
                    f"{list(tensor.shape)}, whose channels cannot be told; sort first, then make the optimizer"
                )


class Sources:
    """For each axis, the place that every channel is taken from."""

    def __init__(self, layout: Layout, order: Order) -> None:
        self.layout, self.order = layout, order
        self._known: dict[Axis, Tensor] = {}

    def of(self, axis: Axis) -> Tensor:
        """Positions [channels]: where the channel that comes to each place was."""
        if axis not in self._known:
            source = torch.arange(axis_size(axis, self.layout.full))
            for group in {s.group for s in axis if s.group is not None}:
                self._move(source, units_on(axis, group), self.order[group])
            self._known[axis] = source
        return self._known[axis]

    @staticmethod
    def _move(source: Tensor, units: Tensor, order: Tensor) -> None:
        """The channels of each unit, in order, come from those of the unit that takes its place."""
        places = torch.argsort(units, stable=True)[int((units < 0).sum()) :]
        counts = torch.bincount(units[units >= 0], minlength=len(order))
        begins = counts.cumsum(0) - counts
        within = torch.arange(len(places)) - begins.repeat_interleave(counts)
        source[places] = places[begins[order].repeat_interleave(counts) + within]


def _permute_shared(slimming: Slimming, sources: Sources, companions: Companions) -> None:
    for tensor, dims in _held(slimming):
        for dim, axis in dims.items():
            source = sources.of(axis)
            for moving in companions.of(tensor):
                moving.copy_(moving.index_select(dim, source.to(moving.device)))


def _held(slimming: Slimming) -> Iterator[tuple[Tensor, Mapping[int, Axis]]]:
    """Every tensor of the layout once, whatever its names, and those that bands have in its place."""
    net = slimming.net()
    tensors = dict(net.named_parameters(remove_duplicate=False)) | dict(net.named_buffers(remove_duplicate=False))
    seen: set[int] = set()
    for name, dims in slimming.layout.axes.items():
        owner, _, key = name.rpartition(".")
        of_bands = [f"{owner}.{OfWidth(key, bound)}" for bound in slimming.heads.get(owner, ())]
        for tensor in (tensors[each] for each in (name, *of_bands)):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor, dims


def _permute_private(slimming: Slimming, part: Part, sources: Sources, companions: Companions) -> None:
    """Statistics and switches of a BatchNorm at narrow widths."""
    module = part.module
    slot = next(slot for slot in part.slots if slot.name == STATISTICS[0])
    axis = slot.axes.get(0)
    for store in (module._parameters, module._buffers):
        for name, tensor in list(store.items()):
            of = OfWidth.parse(name)
            if tensor is None or of is None:
                continue
            channels = of.channels
            if keeps_units(sources.order, channels):
                if axis is not None:
                    _permute_active(tensor, axis, channels, sources, companions)
            elif slimming.norm.has_private_parameters:
                _begin_anew(module, of.key, tensor, axis, channels)
                companions.begin_anew(tensor)
            else:
                drop_buffer(module, name)
                slimming.labels.pop(channels, None)


def _permute_active(
    tensor: Tensor, axis: Axis, channels: tuple[int, ...], sources: Sources, companions: Companions
) -> None:
    active = _active(axis, channels)
    place = torch.full((axis_size(axis, sources.layout.full),), -1)
    place[active] = torch.arange(len(active))
    source = place[sources.of(axis)[active]]
    for moving in companions.of(tensor):
        moving.copy_(moving[source.to(moving.device)])


def _begin_anew(module: nn.Module, key: str, tensor: Tensor, axis: Axis | None, channels: tuple[int, ...]) -> None:
    shared = module._parameters.get(key, module._buffers.get(key))
    assert shared is not None
    tensor.copy_(shared if axis is None else shared[_active(axis, channels).to(shared.device)])


def _active(axis: Axis, channels: tuple[int, ...]) -> Tensor:
    index = axis_index(axis, channels)
    return index if isinstance(index, Tensor) else torch.arange(index)
