"""Tensors in plain attributes of modules: tables, which are like buffers, and what forward keeps for its next call.

LeViT keeps the biases of attention in a dict of each module, others assign them to an attribute that was None. These
are of one width, and made again for another. VideoMAE has its positions in an attribute, which are sliced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.structures import outputs
from slimlib.flow.proof.subject import duplicate
from slimlib.flow.steps import SEED

BARE = frozenset(vars(nn.Module()))  # what torch itself keeps in every module


def attributes(net: nn.Module) -> Iterator[tuple[str, nn.Module, str, Any]]:
    """Path, module, name and value of each attribute that is a dict, or None, or a tensor."""
    for prefix, module in net.named_modules():
        for name, value in list(vars(module).items()):
            if name not in BARE and (value is None or isinstance(value, Tensor) or type(value) is dict):
                yield f"{prefix}.{name}".lstrip("."), module, name, value


def held(value: Any) -> list[Tensor]:
    """The tensors that an attribute holds, besides parameters."""
    values = value.values() if type(value) is dict else [value]
    return [x for x in values if isinstance(x, Tensor) and not isinstance(x, nn.Parameter)]


def filled(net: nn.Module, before: dict[str, list[Tensor]], follows: Callable[[Tensor], bool]) -> list[str]:
    """Paths of the attributes into which forward put tensors that follow channels; they held none before."""
    found = [(path, held(value)) for path, _, _, value in attributes(net) if before.get(path) == []]
    return [path for path, kept in found if any(map(follows, kept))]


def empty(net: nn.Module, args: tuple[Any, ...]) -> None:
    """Let a network forget what it keeps in dicts, where it makes the same again."""
    if not any(type(value) is dict and held(value) for _, _, _, value in attributes(net)):
        return
    copied = duplicate(net)
    with torch.no_grad(), own_random_numbers(SEED):
        before = outputs(copied.eval()(*copy.deepcopy(args)))
        _empty(copied)
        try:
            after = outputs(copied(*copy.deepcopy(args)))
        except Exception:
            return  # what it kept were no copies
    if len(before) == len(after) and all(map(torch.equal, before, after)):
        _empty(net)


def tables(net: nn.Module, args: tuple[Any, ...]) -> list[str]:
    """Paths of the attributes that are tensors which forward leaves alone; not those that a class has a default for."""
    found = {
        path: value
        for path, module, name, value in attributes(net)
        if isinstance(value, Tensor)
        and not isinstance(value, nn.Parameter)
        and value.dim()
        and value.is_floating_point()
        and not hasattr(type(module), name)  # which would hide a buffer
    }
    if not found:
        return []
    copied = duplicate(net)
    before = {path: value for path, _, _, value in attributes(copied) if path in found}
    with torch.no_grad(), own_random_numbers(SEED):
        copied.eval()(*copy.deepcopy(args))
    after = {path: value for path, _, _, value in attributes(copied) if path in found}
    return [path for path in found if after.get(path) is before.get(path) and torch.equal(after[path], found[path])]


def _empty(net: nn.Module) -> None:
    for _, _, _, value in attributes(net):
        if type(value) is dict and held(value):
            value.clear()
