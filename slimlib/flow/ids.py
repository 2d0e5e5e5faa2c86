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


@dataclass(frozen=True)
class WeightRef:
    """A weight, known by name; `dims` says which dimension of the parameter each dimension shows (None: of size 1)."""

    name: str
    dims: tuple[int | None, ...]


Shadow: TypeAlias = Tensor | WeightRef


def untracked(shape: torch.Size) -> Tensor:
    return torch.zeros((), dtype=torch.long).expand(shape)


def everywhere(channel: int, shape: torch.Size) -> Tensor:
    """One id for all elements."""
    return torch.tensor(channel).expand(shape)


def varies(ids: Tensor, dim: int) -> bool:
    return ids.shape[dim] > 1 and ids.stride(dim) != 0


def varying(ids: Tensor) -> list[int]:
    return [dim for dim in range(ids.dim()) if varies(ids, dim)]


def compact(ids: Tensor) -> Tensor:
    """The same ids, with stride 0 along every dimension in which they do not vary."""
    for dim in varying(ids):
        few = distinct(ids)
        if bool((few == few.narrow(dim, 0, 1)).all()):
            ids = ids.narrow(dim, 0, 1).expand(ids.shape)
    return ids


def distinct(ids: Tensor) -> Tensor:
    """A view of size 1 along every dimension in which the ids do not vary."""
    for dim in range(ids.dim()):
        if ids.stride(dim) == 0 and ids.shape[dim] > 1:
            ids = ids.narrow(dim, 0, 1)
    return ids


def tracked(ids: Tensor) -> bool:
    """Whether any element follows a channel."""
    return ids.numel() > 0 and bool((distinct(ids) > 0).any())
