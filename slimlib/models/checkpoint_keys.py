"""Where each tensor of a released checkpoint belongs in the slimmable network.

Modules are named as in the checkpoints, with two exceptions. A BatchNorm is there a list, `bn.0`,
`bn.1`, ... for the narrowest width on, and here one module with tensors named after channel numbers.
And ShuffleNet has there a convolution for each of its groups (`a_0`, `a_1`, `a_2`), here a grouped one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimlib.core.layout import axis_size
from slimlib.core.setting import slimming_of
from slimlib.core.statistics import AFFINE, STATISTICS, OfWidth, tracks
from slimlib.core.width import Width
from slimlib.models.shufflenet_v1 import GROUPS

COUNT = "num_batches_tracked"  # nothing here depends on the number of training steps: it is left out
SHOWN = 3  # differences of a kind that a message lists
Names = Callable[[str], tuple[str, ...]]  # a module here -> the modules there that it is made of


@dataclass(frozen=True)
class Origin:
    """The tensors of a checkpoint that, one after the other, make a tensor of the network; the shape of each."""

    keys: tuple[str, ...]
    shape: tuple[int, ...]


def same_name(module: str) -> tuple[str, ...]:
    return (module,)


def shufflenet_names(module: str) -> tuple[str, ...]:
    """The published ShuffleNet has its stem beside the features, and a module for each group."""
    kind, number, *inner = module.split(".")
    if kind != "features":
        return (module,)
    if number == "0":
        return tuple(".".join([f"head_{group}", *inner]) for group in range(GROUPS))
    block = f"features.{int(number) - 1}"
    if inner[0] == "b":
        return (".".join([block, *inner]),)
    return tuple(".".join([block, f"{inner[0]}_{group}", *inner[1:]]) for group in range(GROUPS))


def origins(
    net: nn.Module, widths: Sequence[Width], *, plain_norms: Sequence[str] = (), names: Names = same_name
) -> dict[str, Origin]:
    """Name of each tensor of a converted network -> where it comes from.

    Args:
        net: the network; with norm "switchable" each width has a private affine in the checkpoint, too.
        widths: those that have statistics in the checkpoint, in its order.
        plain_norms: the BatchNorms that are a single one for all widths there.
        names: of the modules there.
    """
    found: dict[str, Origin] = {}
    for name, module in net.named_modules():
        if tracks(module):
            tensors = _of_norm(net, name, widths, single=name in plain_norms)
        else:
            own = module._parameters.items()
            tensors = iter([(key, key, tuple(value.shape)) for key, value in own if value is not None])
        for ours, theirs, shape in tensors:
            modules = names(name)
            each = (shape[0] // len(modules), *shape[1:])
            found[f"{name}.{ours}"] = Origin(tuple(f"{module}.{theirs}" for module in modules), each)
    return found


def _of_norm(
    net: nn.Module, name: str, widths: Sequence[Width], *, single: bool
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """The tensors of a BatchNorm: their names here and there, and their shapes."""
    slimming = slimming_of(net)
    layout, private = slimming.layout, slimming.norm.has_private_parameters
    statistics = net.get_submodule(name)._buffers["running_mean"]
    assert statistics is not None
    full = statistics.shape[0]
    axis = layout.axes.get(f"{name}.running_mean", {}).get(0)
    for position, width in enumerate(widths):
        channels = slimming.channels_at(width)
        size = full if axis is None else axis_size(axis, channels)
        for key in (*AFFINE, *STATISTICS) if private else STATISTICS:
            ours = key if channels == layout.full else str(OfWidth(key, channels))
            yield ours, key if single else f"bn.{position}.{key}", (size,)
    if not private:
        yield from ((key, key, (full,)) for key in AFFINE)


def differences(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> str:
    """How a state dict differs from the shapes expected, for messages; empty where it does not."""
    missing = [f"'{key}'" for key in expected if key not in state]
    unexpected = [f"'{key}'" for key in state if key not in expected and not key.endswith(COUNT)]
    shapes = [
        f"'{key}' is {list(state[key].shape)}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    lists = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return "; ".join(f"{what}: {_some(items)}" for what, items in lists if items)


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def fill(net: nn.Module, found: Mapping[str, Origin], state: Mapping[str, Tensor]) -> None:
    """Copy a checkpoint into the network.

    Raises:
        ValueError: they do not fit; the message lists what is missing, unexpected, or of another shape.
    """
    expected = {key: origin.shape for origin in found.values() for key in origin.keys}
    if wrong := differences(expected, state):
        raise ValueError(wrong)
    own = {name: torch.cat([state[key] for key in origin.keys]) for name, origin in found.items()}
    net.load_state_dict(net.state_dict() | own)
    slimming_of(net).refresh()
