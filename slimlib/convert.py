"""Make any network slimmable: follow its channels, prove what was found, swap the layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from slimlib.core.apply import EVERY_WIDTH, apply_layout
from slimlib.core.heads import bounds_of, check_heads
from slimlib.core.layout import Layout, axis_size
from slimlib.core.norms import NormName, norm_named
from slimlib.core.setting import check_dense, check_module
from slimlib.core.swapping import no_autocast, no_inference_mode
from slimlib.core.width import Widths, as_widths, is_whole


def convert(
    net: nn.Module,
    example: Any,
    *,
    widths: Widths | None = None,
    norm: NormName = "universal",
    divisor: int = 8,
    divisors: Mapping[str, int] | None = None,
    keep: Sequence[str] = (),
    heads: Mapping[str, int] | None = None,
    layout: Layout | None = None,
) -> nn.Module:
    """Make a network slimmable, in place: afterwards `set_width` sets how many channels it computes with.

    The channels are followed through one run on `example`. The channels of the output stay full, and so do channels
    that cannot be followed; `print(net.slim)` lists these layers with the reasons. A module that did not run, like an
    expert that no token of the example reached, slims like a module of the same class in the same list that did;
    otherwise it stays full. At width 1.0 the network is the original one, bit for bit; parameters, their names and
    `state_dict` keys do not change. After 5 seconds a progress bar appears on a terminal or in a notebook.

    Args:
        net: any dense network, not yet wrapped (DistributedDataParallel, torch.compile).
        example: an input [N, ...], a tuple of the arguments of forward, or a dict of them by name.
        widths: the widths that can be set: a `WidthRange`, or `Switches`; any width in (0, 1] by default.
        norm: BatchNorm is "universal" (shared affine, statistics by `calibrate`), "switchable" (private
            affine and statistics for each of the `Switches`), or "shared" (one set for all widths).
        divisor: channels are rounded to multiples of it; a narrow layer takes a smaller one.
        divisors: name of a layer -> the divisor of its output channels, for layers that round differently
            (layers that must agree with them follow).
        keep: names of further modules whose outputs stay full.
        heads: name of a layer, such as the last -> number of bands: the range of widths is divided into that many equal
            bands, and each has its own weight and bias in this layer, equal at first. A `WidthPlan` belongs to the band
            of its total number of channels. The full width keeps the plain names.
        layout: which layers slim together, for a network where you know it and its channels cannot be followed; used
            unchanged, with its divisors.

    Raises:
        ValueError: something cannot be followed and cannot be kept full, nothing slims, or an argument is wrong. The
            network is then unchanged.
        TypeError: `net` is not a module, or an argument has the wrong type.

    Source: Yu et al. 2019 (Slimmable Neural Networks); Yu & Huang 2019 (US-Nets).
    """
    from slimlib.flow import follow

    check_network(net)
    widths = EVERY_WIDTH if widths is None else as_widths(widths)
    norm_named(norm).check(widths)
    check_names("divisors", divisors or {}, numbers=True)
    check_names("heads", heads or {}, numbers=True)
    check_names("keep", keep)
    check_divisors(divisor, divisors or {})
    check_heads(net, heads or {}, widths)
    if layout is None:
        with no_inference_mode(), no_autocast():
            layout = follow(net, example, keep=keep, divisor=divisor, divisors=divisors)
    elif divisors or keep:
        raise ValueError("a layout already says its divisors and what stays full; leave out divisors and keep")
    elif not isinstance(layout, Layout):
        raise TypeError(f"layout must be a Layout, as net.slim.layout of a slimmable network, and is {layout!r}")
    else:
        check_layout(net, layout)
    bounds = {name: bounds_of(layout, widths, count) for name, count in (heads or {}).items()}
    return apply_layout(net, layout, widths=widths, norm=norm, heads=bounds)


def check_network(net: nn.Module) -> None:
    """Raise ValueError, or TypeError, for a network that `convert` cannot work with."""
    check_module(net)
    if isinstance(net, torch.jit.ScriptModule):
        raise ValueError("the network was compiled by torch.jit; convert the module that it was made from")
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if is_lazy(tensor):
            raise ValueError(f"'{name}' has no size yet; call the network once on an example, then convert it")
        if tensor.is_meta:
            raise ValueError(f"'{name}' has no numbers, on the meta device; load the network on another device first")
    if isinstance(net, DistributedDataParallel) or "_orig_mod" in net._modules:
        raise ValueError(f"convert the network first, then wrap it; this one is inside {type(net).__name__} already")
    check_dense(net, "convert")


def check_names(what: str, names: Any, *, numbers: bool = False) -> None:
    """Raise TypeError unless these are names of modules, with a number each where `numbers`."""
    right = isinstance(names, Mapping) if numbers else isinstance(names, Collection) and not isinstance(names, str)
    if not right or not all(isinstance(name, str) for name in names):
        form = (
            '{"layer1.conv": 8}, a number for each name of a module' if numbers else '["layer1.conv"], names of modules'
        )
        raise TypeError(f"{what}={names!r} must be of the form {form} in net.named_modules()")


def check_divisors(divisor: int, divisors: Mapping[str, int]) -> None:
    """Raise ValueError unless the number is one of channels."""
    for name, value in {"": divisor, **divisors}.items():
        if not is_whole(value, 1):
            where = f" of {name!r}" if name else ""
            raise ValueError(f"divisor {value!r}{where} must be a whole number of channels, at least 1")


def check_layout(net: nn.Module, layout: Layout) -> None:
    """Raise ValueError for a layout of another network."""
    tensors = dict(net.named_parameters(remove_duplicate=False)) | dict(net.named_buffers(remove_duplicate=False))
    for name, dims in layout.axes.items():
        if name not in tensors:
            raise ValueError(f"the layout belongs to another network: this {type(net).__name__} has no '{name}'")
        full = {dim: axis_size(axis, layout.full) for dim, axis in dims.items()}
        shape = list(tensors[name].shape)
        if any(dim >= len(shape) or shape[dim] != size for dim, size in full.items()):
            wanted = ", ".join(f"{size} in dimension {dim}" for dim, size in full.items())
            raise ValueError(f"the layout belongs to another network: '{name}' is {shape} here, and has {wanted} there")
