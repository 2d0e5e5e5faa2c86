"""`build`: a network by its name, at full width or individually for one width."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, get_args

from slimlib.core.width import check_is, is_number, is_whole, round_channels
from slimlib.models import ds_mobilenet, mnasnet, mobilenet_v1, mobilenet_v2, resnet, shufflenet_v1
from slimlib.models.channels import NormKind, Outputs, Slims, channel_rule, layers_in_order
from slimlib.models.classifier import LEFT_OUT, Classifier


class Network(Protocol):
    def __call__(self, outputs: Sequence[Outputs], *, classes: int, size: int) -> Classifier: ...


@dataclass(frozen=True)
class Family:
    """A network whose layers have channel numbers of their own: the full ones, the divisor, and how it is built."""

    slims: Callable[[float], list[Slims]]
    divisor: int
    network: Network
    gate_before: str | None = None


FAMILIES = {
    "mobilenet_v1": Family(mobilenet_v1.slims, mobilenet_v1.DIVISOR, mobilenet_v1.network),
    "mobilenet_v2": Family(mobilenet_v2.slims, mobilenet_v2.DIVISOR, mobilenet_v2.network),
    "mnasnet": Family(mnasnet.slims, mnasnet.DIVISOR, mnasnet.network),
    "resnet8": Family(partial(resnet.slims, resnet.RESNET8), resnet.DIVISOR, partial(resnet.network, resnet.RESNET8)),
    "resnet18": Family(
        partial(resnet.slims, resnet.RESNET18), resnet.DIVISOR, partial(resnet.network, resnet.RESNET18)
    ),
    "resnet50": Family(
        partial(resnet.slims, resnet.RESNET50), resnet.DIVISOR, partial(resnet.network, resnet.RESNET50)
    ),
    "ds_mobilenet": Family(
        ds_mobilenet.slims, ds_mobilenet.DIVISOR, ds_mobilenet.network, gate_before=ds_mobilenet.GATE_BEFORE
    ),
    "ds_resnet50": Family(
        partial(resnet.slims, resnet.DS_RESNET50),
        resnet.DIVISOR,
        partial(resnet.network, resnet.DS_RESNET50),
        gate_before="features.8",
    ),
}
NAMES = (*FAMILIES, "shufflenet_v1")
GROUP_NORM_DIVISOR = 8


def build(
    name: str,
    *,
    classes: int = 1000,
    size: int = 224,
    width: float = 1.0,
    multiplier: float = 1.0,
    divisor: int | None = None,
    norm: NormKind = "batch",
) -> Classifier:
    """A dense classifier with fresh weights: `convert(net, example, **net.channel_rule)` makes it slimmable.

    Args:
        name: one of `NAMES`. Input [N, 3, H, W], output [N, classes]; any H and W will do.
        size: of the inputs it is made for: 224, with the published strides (32 in all), or 64 or 32, where
            the first downsamplings are left out (16 and 8 in all); resnet8, with one stage less, has half of these.
        width: of the *individual* network: the channels that the full one has after `convert` at this width.
        multiplier: makes the full network thinner or wider, in multiples of 8 channels (shufflenet_v1: in
            eighths); `width` is a fraction of that.
        divisor: channels slim in multiples of it (hidden layers of expansion r in multiples of r divisors;
            shufflenet_v1 in multiples of as many eighths); None: as published, that is 8 in the MobileNets
            and MNasNet, 1 in the others, and 8 in a ResNet with GroupNorm, whose groups stay whole.
        norm: "batch", or "group": GroupNorm over groups of 8 channels, or fewer where a layer slims in smaller steps.

    Raises:
        ValueError: an argument is not one of these.

    Source: the file of each network.
    """
    _check(name, classes, size, width, multiplier, divisor, norm)
    if name == "shufflenet_v1":
        return _shufflenet(classes, size, width, multiplier, divisor or shufflenet_v1.DIVISOR, norm)
    family = FAMILIES[name]
    table = family.slims(multiplier)
    divisor = divisor or (max(family.divisor, GROUP_NORM_DIVISOR) if norm == "group" else family.divisor)
    outputs = [Outputs(s.at(width, divisor), s.group(divisor) if norm == "group" else None) for s in table]
    net = family.network(outputs, classes=classes, size=size)
    net.gate_before = family.gate_before or net.gate_before
    net.layers = layers_in_order(net)
    net.channel_rule = channel_rule(net.layers[:-1], table, divisor)
    return net


def from_channels(name: str, channels: Sequence[int], *, size: int = 224) -> Classifier:
    """A dense classifier with these output channels, as published plans list them.

    Args:
        name: one of `NAMES` but shufflenet_v1.
        channels: of each layer in order, depthwise ones left out, a shortcut's projection before the body of
            its block, the number of classes last.
        size: see `build`.

    Raises:
        ValueError: another number of layers, or layers that are added differ; the message names them.

    Source: Yu & Huang 2019 (AutoSlim), the plans of their published networks.
    """
    _check_name(name, FAMILIES)
    _check_size(size)
    family = FAMILIES[name]
    expected = len(family.slims(1.0)) + 1
    check_is(Sequence, "a list of channel numbers, one of each layer", channels=channels)
    if len(channels) != expected:
        raise ValueError(
            f"{name} has {expected} layers with channels of their own, classifier last; got {len(channels)}"
        )
    for position, count in enumerate(channels):
        if not is_whole(count, 1):
            raise ValueError(f"channel number {position} of {name} is {count!r}; it must be a whole number, at least 1")
    net = family.network([Outputs(count) for count in channels[:-1]], classes=channels[-1], size=size)
    net.layers = layers_in_order(net)
    net.channel_rule = channel_rule(net.layers[:-1], [Slims(count) for count in channels[:-1]], family.divisor)
    return net


def _shufflenet(classes: int, size: int, width: float, multiplier: float, divisor: int, norm: NormKind) -> Classifier:
    full = max(1, round(shufflenet_v1.UNITS * multiplier))
    units = round_channels(full, width, divisor)
    net = shufflenet_v1.network(units, classes=classes, size=size, norm=norm)
    net.layers = layers_in_order(net)
    rule = {"divisor": divisor, "divisors": {}, "keep": ()}
    net.channel_rule = {**rule, "layout": shufflenet_v1.layout(net, units, divisor)}
    return net


def _check(name: str, classes: int, size: int, width: float, multiplier: float, divisor: int | None, norm: str) -> None:
    """Raise ValueError for what `build` cannot work with."""
    _check_name(name, NAMES)
    _check_size(size)
    if not is_number(width) or not 0 < width <= 1:
        raise ValueError(f"width {width!r} must be in (0, 1]; a wider network is build({name!r}, multiplier=...)")
    if not is_number(multiplier) or not 0 < multiplier < float("inf"):
        raise ValueError(f"multiplier {multiplier!r} must be a positive number, for example 0.25")
    for what, value in (("classes", classes), ("divisor", 1 if divisor is None else divisor)):
        if not is_whole(value, 1):
            raise ValueError(f"{what} {value!r} must be a whole number, at least 1")
    if norm not in get_args(NormKind):
        raise ValueError(f"norm {norm!r} does not exist; choose one of {', '.join(get_args(NormKind))}")


def _check_name(name: str, names: Sequence[str] | dict[str, Family]) -> None:
    if name not in list(names):
        near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.0)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise ValueError(f"network {name!r} does not exist{hint} (there are {', '.join(names)})")


def _check_size(size: int) -> None:
    if size not in list(LEFT_OUT):
        raise ValueError(f"size {size!r} must be one of {', '.join(map(str, LEFT_OUT))}; inputs of other sizes run too")
