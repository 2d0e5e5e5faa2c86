"""Set the width of a network, and find the slimmable network in whatever wraps it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from slimlib.core.layers import SLIM_LAYERS
from slimlib.core.slimming import Slimming
from slimlib.core.statistics import is_private
from slimlib.core.width import Width


def set_width(net: nn.Module, width: Width) -> None:
    """Make a slimmable network compute at a width, until it is set again.

    Args:
        net: what `convert`, `adopt`, `load` or `freeze` returned, also inside DistributedDataParallel,
            torch.compile or a larger module (then every slimmable part of it is set).
        width: a fraction in (0, 1] that the network was converted for, or a `WidthPlan`.

    Raises:
        ValueError: the width is not allowed here, or nothing in `net` is slimmable.
    """
    slimming: Slimming | None = getattr(net, "__dict__", {}).get("slim")
    if slimming is not None:
        slimming.set(width)
        return
    for part in slimmable_parts(net):
        part.set(width)


@contextmanager
def at_width(net: nn.Module, width: Width) -> Iterator[None]:
    """Within the block the network computes at `width`; afterwards at the width that was set before."""
    before = [(part, part.width) for part in slimmable_parts(net)]
    try:
        set_width(net, width)
        yield
    finally:
        for part, old in before:
            part.set(old)


@contextmanager
def in_eval(*nets: nn.Module) -> Iterator[None]:
    """Within the block networks are in eval mode; afterwards each module is in the mode that it was in."""
    modes = [(module, module.training) for net in nets for module in net.modules()]
    for net in nets:
        net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            if module.training != mode:
                module.training = mode


def current_width(net: nn.Module) -> Width:
    """The width that `net` is set to."""
    return slimmable_parts(net)[0].width


def slimmable_parts(net: nn.Module) -> list[Slimming]:
    """The slimmable networks in `net`: itself, or what DistributedDataParallel and others wrap.

    Raises:
        ValueError: there is none; the message names the call that makes one.
        TypeError: `net` is no module.
    """
    check_module(net)
    own = net.__dict__.get("slim")
    if own is not None:  # a network is slimmable as a whole: there is no other within
        return [own]
    parts = {id(found): found for m in net.modules() if (found := m.__dict__.get("slim")) is not None}
    if not parts:
        raise ValueError(_why_none(net))
    return list(parts.values())


def check_module(net: object, what: str = "net") -> None:
    """Raise TypeError unless `net` is a module."""
    if not isinstance(net, nn.Module):
        given = f"the class {net.__name__}; make a network of it first" if isinstance(net, type) else type(net).__name__
        raise TypeError(f"{what} must be a torch.nn.Module, and is {given}")


def _why_none(net: nn.Module) -> str:
    name = type(net).__name__
    if any("slimming" in module.__dict__ for module in net.modules()):
        return f"this {name} is a part of a slimmable network, which has one width; give the whole network"
    if any(isinstance(module, tuple(SLIM_LAYERS.values())) for module in net.modules()):
        return f"this {name} is written by hand from slim layers; make it slimmable with slimlib.adopt(net)"
    return f"nothing in this {name} is slimmable; make it so with slimlib.convert(net, example)"


def trainable_parts(net: nn.Module) -> list[Slimming]:
    """The slimmable networks in `net`, which are no snapshots.

    Raises:
        ValueError: there is none, or one is frozen.
    """
    parts = slimmable_parts(net)
    if not all(isinstance(part, Slimming) for part in parts):
        raise ValueError("a frozen network is a snapshot for serving; give the network that it was made from")
    return parts


def unwrapped(net: nn.Module) -> nn.Module:
    """The module in torch's wrappers that only call it: DistributedDataParallel, torch.compile, averaged weights."""
    check_module(net)
    while isinstance(net, DataParallel | DistributedDataParallel | AveragedModel) or "_orig_mod" in net._modules:
        net = next(net.children())
    return net


def slimming_of(net: nn.Module) -> Slimming:
    """The one slimmable network in `net`.

    Raises:
        ValueError: there is none, there are several, it is frozen, or `net` runs parts of it at widths of their own.
    """
    parts = trainable_parts(net)
    if len(parts) > 1:
        raise ValueError(f"this module holds {len(parts)} slimmable networks; give one of them, or convert the whole")
    root = parts[0].net()
    if root is not net and all(module is not root for module in net.modules()):
        raise ValueError(
            f"this {type(net).__name__} runs parts of a slimmable network at widths of its own choice; give that "
            "network, and save what was added to it, as a gate, by its state_dict"
        )
    return parts[0]


def whole_network(net: nn.Module) -> Slimming:
    """The slimmable network that `net` is, also within torch's wrappers.

    Raises:
        ValueError: as `slimming_of`; or `net` computes more than the network that it holds.
    """
    slimming = slimming_of(net)
    root = slimming.net()
    if unwrapped(net) is not root:
        name = next(name for name, module in net.named_modules() if module is root)
        raise ValueError(
            f"this {type(net).__name__} computes more than the slimmable network in it; give only that, .{name}"
        )
    return slimming


def check_dense(net: nn.Module, call: str) -> None:
    """Raise ValueError for a network of which something is slimmable already; `call` is what would make it so."""
    for name, module in net.named_modules():
        if hasattr(module.__dict__.get("slim"), "channels_at"):  # others may have an attribute of that name
            slimming_of(module)
            where = name or type(net).__name__
            raise ValueError(f"'{where}' is slimmable already; {call} a network once, as a whole")


def in_use(net: nn.Module, width: Width) -> dict[nn.Parameter, Tensor]:
    """The parameters that a width computes with, of those that learn, and where: a mask of the shape of each."""
    slimming = slimming_of(net)
    with at_width(net, width), torch.enable_grad():
        seen = [
            view
            for part in slimming.parts
            for slot in part.slots
            if isinstance(view := getattr(part.module, slot.name, None), Tensor) and view.requires_grad
        ]
        held = {id(slot.store[slot.name]) for part in slimming.parts for slot in part.slots}
        named = [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
        full = [p for name, p in named if id(p) not in held and not is_private(name.rpartition(".")[2])]
        parameters = [parameter for _, parameter in named]
        used = torch.stack([tensor.sum() for tensor in (*seen, *full)]).sum()
        ones = torch.autograd.grad(used, parameters, allow_unused=True)
    return {p: found != 0 for p, found in zip(parameters, ones, strict=True) if found is not None}
