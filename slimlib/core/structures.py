"""The tensors in whatever a network takes and returns: containers, dataclasses, and plain objects that hold them."""

from __future__ import annotations

import copy
import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, enum.Enum, type)
DEPTH = 4  # of objects in objects that are looked into


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in arguments or outputs, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if type(tree) is tuple and all(isinstance(item, Tensor) for item in tree):
        return list(tree)
    return [leaf for leaf in _leaves(tree, DEPTH) if isinstance(leaf, Tensor)]


def outputs(tree: Any) -> list[Tensor]:
    """The tensors in what a network returns, but for keys and values that it remembers for its next call."""
    return [leaf for leaf in _leaves(tree, DEPTH, caches=False) if isinstance(leaf, Tensor)]


def opaque(tree: Any) -> list[Any]:
    """What may hold tensors that cannot be found: generators, arrays, functions, and their like."""
    return [leaf for leaf in _leaves(tree, DEPTH) if not isinstance(leaf, (Tensor, *PLAIN))]


def map_tensors(change: Callable[[Tensor], Any], tree: Any) -> Any:
    """A copy of arguments or outputs with every tensor changed; other things are shared with the original."""
    return tree_map(lambda leaf: _changed(change, leaf, DEPTH), tree)


def _leaves(tree: Any, depth: int, caches: bool = True) -> Iterator[Any]:
    for leaf in tree_leaves(tree):
        if not caches and hasattr(leaf, "get_seq_length"):  # a cache of transformers
            continue
        inner = _attributes(leaf) if depth else None
        if inner is None:
            yield leaf
        else:
            yield from _leaves(list(inner.values()), depth - 1, caches)


def _changed(change: Callable[[Tensor], Any], leaf: Any, depth: int) -> Any:
    if isinstance(leaf, Tensor):
        return change(leaf)
    inner = _attributes(leaf) if depth else None
    if inner is None:
        return leaf
    changed = {
        key: tree_map(lambda value: _changed(change, value, depth - 1), held)
        for key, held in inner.items()
        if tensors(held)
    }
    if not changed:
        return leaf
    made = copy.copy(leaf)
    for key, value in changed.items():
        if isinstance(made, Mapping):
            made[key] = value  # type: ignore[index]
        else:
            object.__setattr__(made, key, value)
    return made


def _attributes(x: Any) -> Mapping[Any, Any] | None:
    """What a dataclass, a mapping or another object holds by name; None for what has no parts that are known."""
    if isinstance(x, (Tensor, FunctionType, nn.Module, *PLAIN)):
        return None
    if isinstance(x, set | frozenset):
        return dict(enumerate(x))
    if isinstance(x, Mapping):
        return x
    if dataclasses.is_dataclass(x):
        return {field.name: getattr(x, field.name) for field in dataclasses.fields(x) if hasattr(x, field.name)}
    slots = [name for kind in type(x).__mro__ for name in getattr(kind, "__slots__", ()) if hasattr(x, name)]
    if hasattr(x, "__dict__") or slots:
        return {name: getattr(x, name) for name in slots} | getattr(x, "__dict__", {})
    return None
