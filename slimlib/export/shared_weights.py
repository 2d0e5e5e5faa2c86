"""Which weights of several widths are parts of one, so that it has to be stored once.

Those of a slimmable network are, but for a factor for each output channel where BatchNorm was folded into them or
weight normalisation was computed. What is found is compared with the weights themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slimlib.core.layout import Axis, axis_index
from slimlib.core.slimming import Slimming

SMALL = 256  # elements up to which a tensor is not worth sharing
ROUNDINGS = 8  # by which a weight may differ from its part times the factor


@dataclass(frozen=True)
class Cut:
    """How a width has its weight from the shared one.

    Attributes:
        whole: the shape of the shared one.
        positions: along each of its dimensions.
        factor: for each output channel, in the shape that broadcasts; None is 1.
    """

    whole: torch.Size
    positions: Sequence[Tensor]
    factor: Tensor | None


def share(
    held: Sequence[Mapping[str, Tensor]], slimming: Slimming, channels: Sequence[tuple[int, ...]]
) -> tuple[dict[str, Tensor], list[dict[str, Cut]]]:
    """Find what can be stored once.

    Args:
        held: for each width, its tensors by name.
        slimming: the state of the network that they are of.
        channels: the channel numbers of each width.

    Returns:
        The shared tensors, and for each width how it has its own from those of the same name.
    """
    wholes: dict[str, Tensor] = {}
    cuts: list[dict[str, Cut]] = [{} for _ in held]
    for name in dict.fromkeys(name for tensors in held for name in tensors):
        own = {number: tensors[name] for number, tensors in enumerate(held) if name in tensors}
        if min(tensor.dim() for tensor in own.values()) < 2 or max(map(Tensor.numel, own.values())) <= SMALL:
            continue
        whole, positions = _whole(name, own, slimming, channels)
        found = {number: _cut(whole, positions[number], tensor) for number, tensor in own.items()}
        wanted = {number: cut for number, cut in found.items() if cut is not None}
        if len(wanted) > 1:
            wholes[name] = whole
            for number, cut in wanted.items():
                cuts[number][name] = cut
    return wholes, cuts


def _whole(
    name: str, own: Mapping[int, Tensor], slimming: Slimming, channels: Sequence[tuple[int, ...]]
) -> tuple[Tensor, dict[int, list[Tensor]]]:
    """The tensor of which all others may be parts, no larger than they need, and the positions of each in it."""
    path = _parameter(slimming, name)
    if path is None:  # computed from weights: maybe the others are leading parts of the largest
        leading = {number: [torch.arange(size) for size in tensor.shape] for number, tensor in own.items()}
        return max(own.values(), key=Tensor.numel), leading
    whole, axes = slimming.net().state_dict()[path].cpu(), slimming.layout.axes.get(path, {})
    positions: dict[int, list[Tensor]] = {number: [] for number in own}
    for dim, size in enumerate(whole.shape):
        chosen = {number: _positions(axes.get(dim), channels[number], size) for number in own}
        used = torch.cat(list(chosen.values())).unique()
        whole = whole.index_select(dim, used)
        for number, among_all in chosen.items():
            positions[number].append(torch.searchsorted(used, among_all))
    return whole.contiguous(), positions


def _parameter(slimming: Slimming, name: str) -> str | None:
    """The tensor of the slimmable network that a weight of this name is, or is computed from by a normalisation."""
    owner, _, attribute = name.rpartition(".")
    computed = f"{owner}.parametrizations.{attribute}".lstrip(".")
    known = slimming.net().state_dict().keys()
    return next((p for p in (name, f"{computed}.original1", f"{computed}.original", f"{name}_v") if p in known), None)


def _positions(axis: Axis | None, channels: tuple[int, ...], size: int) -> Tensor:
    index = size if axis is None else axis_index(axis, channels)
    return torch.arange(index) if isinstance(index, int) else index


def _cut(whole: Tensor, positions: Sequence[Tensor], own: Tensor) -> Cut | None:
    """How `own` is cut out of the whole; None if it is no part of it."""
    if [len(along) for along in positions] != list(own.shape) or whole.dtype != own.dtype:
        return None
    part = whole
    for dim, along in enumerate(positions):
        part = part.index_select(dim, along)
    if torch.equal(part, own):
        return Cut(whole.shape, positions, None)
    candidates = (_factor(part, own, dim) for dim in (0, 1)) if own.is_floating_point() else ()
    factor = next((factor for factor in candidates if factor is not None), None)
    return None if factor is None else Cut(whole.shape, positions, factor)


def _factor(part: Tensor, own: Tensor, dim: int) -> Tensor | None:
    """What `part` is to be multiplied with along a dimension to be `own`, by least squares; None if nothing will do."""
    a, b = part.double(), own.double()
    others = [other for other in range(a.dim()) if other != dim]
    squares = (a * a).sum(others, keepdim=True)
    factor = ((a * b).sum(others, keepdim=True) / squares).where(squares > 0, 1.0).to(own.dtype)
    off = (a * factor - b).abs().amax(others)
    allowed = ROUNDINGS * torch.finfo(own.dtype).eps * b.abs().amax(others)
    return factor if bool((off <= allowed).all()) else None
