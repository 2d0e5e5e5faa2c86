"""Channel ids: the integer shadow of a tensor.

The shadow of a tensor has its shape and tells for every element which channel it belongs to. It is
stored with stride 0 along every dimension in which the ids do not vary. 0: follows no channel
(made inside forward). The shadow of a weight is a `WeightRef`, since its elements have two channels each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

# A parameter's channels: its name and a dimension of it, or None where every element has an id of its own (a bias,
# a position embedding), or "input" for the channels that enter a norm module of that name.
AtomKey: TypeAlias = tuple[str, int | str | None]


@dataclass(frozen=True, eq=False)
class WeightAxis:
    """One axis of a parameter, or a part of it: the ids of its channels, and which of them these are (None: all)."""

    keys: tuple[AtomKey, ...]  # several where parameters were joined along it
    ids: Tensor
    picked: Tensor | None = None

    def pick(self, positions: Tensor) -> WeightAxis:
        picked = positions if self.picked is None else self.picked[positions]
        return WeightAxis(self.keys, self.ids[positions], picked)


Dimension: TypeAlias = tuple[WeightAxis, ...]


@dataclass(frozen=True, eq=False)
class WeightRef:
    """A weight, known by its axes, or what was computed from it and can be sliced like it.

    name: of the parameter.
    dims: the axes that each dimension shows; of several the last moves fastest. (): none, the elements are repeated.
    own: the elements are those of the parameter, not computed from them.
    as_data: of what is a kernel for each sample, if it is used as one: the ids of its elements, if it is not.
    """

    name: str
    dims: tuple[Dimension, ...]
    own: bool = True
    as_data: Tensor | None = None

    @property
    def axes(self) -> list[WeightAxis]:
        return [axis for dim in self.dims for axis in dim]

    def column(self, dim: int, size: int) -> Tensor:
        """One id for every position of a dimension: of its first axis, if it shows several."""
        axes = self.dims[dim]
        if not axes:
            return torch.zeros(size, dtype=torch.long)
        first = next((axis for axis in axes if len(axis.ids) > 1), axes[0])
        return first.ids if len(first.ids) == size else first.ids.repeat_interleave(size // len(first.ids))


Shadow: TypeAlias = Tensor | WeightRef


def layer_of(parameter: str) -> str:
    """Name of the layer a parameter belongs to; of the parameter itself where it is the network's own."""
    owner = parameter.split(".parametrizations.")[0]
    return owner if owner != parameter else parameter.rpartition(".")[0] or parameter


def untracked(shape: torch.Size) -> Tensor:
    return torch.zeros((), dtype=torch.long).expand(shape)


def everywhere(channel: int, shape: torch.Size) -> Tensor:
    """One id for all elements."""
    return torch.tensor(channel).expand(shape)


def varies(ids: Tensor, dim: int) -> bool:
    return ids.shape[dim] > 1 and ids.stride(dim) != 0


def varying(ids: Tensor) -> list[int]:
    sizes = enumerate(zip(ids.shape, ids.stride(), strict=True))
    return [dim for dim, (size, step) in sizes if size > 1 and step != 0]


def kinds(ids: Tensor, dim: int) -> int:
    """How many channels there are along a dimension, one at each place."""
    if not varies(ids, dim):
        return 1
    column = distinct(ids).movedim(dim, 0).reshape(ids.shape[dim], -1).max(1).values
    return len(torch.unique(column[column > 0]))


def holds_channels(ids: Tensor, dim: int) -> bool:
    """Whether the channels lie along a dimension, of which no other has more; tokens of two kinds are but two."""
    return varies(ids, dim) and kinds(ids, dim) >= max(kinds(ids, d) for d in varying(ids))


def compact(ids: Tensor) -> Tensor:
    """The same ids, with stride 0 along every dimension in which they do not vary, and stored without the rest."""
    few = distinct(ids)
    for dim in range(few.dim()):
        if few.shape[dim] > 1 and bool((few == few.narrow(dim, 0, 1)).all()):
            few = few.narrow(dim, 0, 1)
    return few.clone().expand(ids.shape) if few.shape != ids.shape else ids


def distinct(ids: Tensor) -> Tensor:
    """A view of size 1 along every dimension in which the ids do not vary."""
    shape, strides = list(ids.shape), ids.stride()
    few = [1 if step == 0 else size for size, step in zip(shape, strides, strict=True)]
    return ids if few == shape else ids.as_strided(few, strides, ids.storage_offset())


def tracked(ids: Tensor) -> bool:
    """Whether any element follows a channel."""
    few = distinct(ids)
    if few.numel() == 1:
        return few.item() > 0
    return bool(few.numel()) and (int(few[(0,) * few.dim()]) > 0 or bool((few > 0).any()))


def of_none(ids: Tensor, shape: torch.Size) -> Tensor:
    """The ids of an empty tensor along the dimensions that it has in common with one that it was taken from."""
    few = distinct(ids)
    if few.dim() != len(shape):
        return untracked(shape)
    for dim, size in enumerate(shape):
        few = few if few.shape[dim] in (1, size) else few.narrow(dim, 0, 1)
    return few.expand(shape)


def reshaped(ids: Tensor, shape: torch.Size) -> Tensor:
    """The ids of a view; dimensions along which they do not vary take no memory where no other is merged with them."""
    if not ids.numel():
        old, new = (torch.Size(max(size, 1) for size in sizes) for sizes in (ids.shape, shape))
        fits = distinct(ids).numel() and old.numel() == new.numel()
        return reshaped(distinct(ids).expand(old), new).expand(shape) if fits else untracked(shape)
    small_old, small_new = list(ids.shape), list(shape)
    for kept, made in matching_dims(ids.shape, shape):
        if not any(varies(ids, dim) for dim in kept):
            for dim in kept:
                small_old[dim] = 1
            for dim in made:
                small_new[dim] = 1
    small = ids[tuple(slice(size) for size in small_old)].reshape(small_new)
    return compact(small.expand(shape))


def matching_dims(old: torch.Size, new: torch.Size) -> list[tuple[list[int], list[int]]]:
    """Runs of dimensions of two shapes that hold the same elements."""
    runs = []
    i = j = 0
    while i < len(old) and j < len(new):
        kept, made = [i], [j]
        a, b = old[i], new[j]
        while a != b:
            if a < b:
                i += 1
                a *= old[i]
                kept.append(i)
            else:
                j += 1
                b *= new[j]
                made.append(j)
        runs.append((kept, made))
        i, j = i + 1, j + 1
    return runs


def same_ids(a: Shadow, b: Shadow) -> bool:
    """Whether two tensors have the same ids, as far as they are stored alike."""
    return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(distinct(a), distinct(b))
