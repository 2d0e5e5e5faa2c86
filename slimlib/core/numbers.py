"""The plain numbers that a layer keeps beside its weights, at some width.

`groups` of a depthwise convolution and `num_groups` of a GroupNorm decide the arithmetic; the
others (`out_channels`, `in_features` ...) are what a forward may read to shape a tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

LARGE = 2**15  # numbers in a kernel from which the copy of it takes longer than the calls that avoid it
Size = Callable[[int], int]  # dimension of the layer's weight -> active length


def layer_numbers(layer: nn.Module, size: Size, channels: int | None) -> dict[str, Any]:
    """Attributes of `layer` at a width; `layer` itself shows its full numbers while this is called.

    Args:
        size: active length of each dimension of its weight.
        channels: active channels that enter it, for a norm without weights; None: all.
    """
    if isinstance(layer, _ConvNd):
        return _conv_numbers(layer, size)
    if isinstance(layer, nn.Linear):
        return {"out_features": size(0), "in_features": size(1)}
    if isinstance(layer, nn.Embedding):
        return {"embedding_dim": size(1)}
    if isinstance(layer, nn.PReLU):
        return {"num_parameters": size(0)}
    if isinstance(layer, nn.GroupNorm):
        count = size(0) if layer.affine else channels or layer.num_channels
        return {"num_channels": count, "num_groups": max(1, count * layer.num_groups // layer.num_channels)}
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        shape = layer.normalized_shape
        if layer.elementwise_affine:
            return {"normalized_shape": tuple(size(d) for d in range(len(shape)))}
        return {"normalized_shape": (*shape[:-1], channels or shape[-1])}
    if isinstance(layer, _NormBase):
        return {"num_features": size(0) if layer.affine else channels or layer.num_features}
    return {}


def _conv_numbers(conv: _ConvNd, size: Size) -> dict[str, Any]:
    """Depthwise: the groups follow the channels. Otherwise the groups stay, and each slims inside."""
    groups = conv.groups
    if isinstance(conv, _ConvTransposeNd):  # weight [C_in, C_out / groups, ...]
        if 1 < groups == conv.in_channels:
            groups = size(0)
        return {"in_channels": size(0), "out_channels": size(1) * groups, "groups": groups}
    if 1 < groups == conv.in_channels:  # weight [C_out, C_in / groups, ...]
        groups = size(0) * groups // conv.out_channels
    numbers = {"in_channels": size(1) * groups, "out_channels": size(0), "groups": groups}
    if hasattr(conv, "as_matrix"):  # a slimmable layer, not the plain one that is extracted
        pointwise = conv.groups == 1 and set(conv.kernel_size + conv.stride) == {1} and not any(conv.padding)
        numbers["as_matrix"] = pointwise and size(1) < conv.in_channels and size(0) * size(1) >= LARGE
    return numbers


def held_numbers(module: nn.Module, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The attributes of `module` at a width; it shows its full ones while this is called.

    Args:
        sizes: "heads" -> 4, or "shape.1" -> 4 for an item of a tuple or list, or "config.heads" -> 4 for an
            attribute of an object, of which the module gets a copy of its own (others may hold it, too), or
            "config.sizes.1" -> 4 for an item there.
    """
    found: dict[str, Any] = {}
    for path, size in sizes.items():
        name, *inner = path.split(".")
        found[name] = _replaced(found.get(name, module.__dict__[name]), inner, size)
    return found


def _replaced(held: Any, path: Sequence[str], size: int) -> Any:
    """What is held, with another number in it; a copy, where it is another."""
    if not path:
        return size
    key, *inner = path
    if isinstance(held, tuple | list):
        items = list(held)
        items[int(key)] = _replaced(items[int(key)], inner, size)
        return items if isinstance(held, list) else tuple(items)
    made = _replaced(getattr(held, key), inner, size)
    if made == getattr(held, key):
        return held
    copied = copy.copy(held)
    copied.__dict__[key] = made
    return copied
