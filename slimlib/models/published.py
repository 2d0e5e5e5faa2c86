"""The checkpoints that the original authors released, as slimmable networks."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from slimlib.convert import convert
from slimlib.core.apply import apply_layout
from slimlib.core.norms import NormName, norm_named
from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.setting import slimming_of
from slimlib.core.swapping import no_inference_mode
from slimlib.core.whole_file import as_path
from slimlib.core.width import Switches, Width, WidthRange
from slimlib.flow import follow
from slimlib.models.building import build, from_channels
from slimlib.models.checkpoint_file import read_state
from slimlib.models.checkpoint_keys import differences, fill, origins, same_name, shufflenet_names
from slimlib.models.classifier import Classifier
from slimlib.models.plans import plan_of

CLASSES = 1000  # of ImageNet
V2_TAIL = ("features.18.1",)


@dataclass(frozen=True)
class Checkpoint:
    """A released file: its network, and the widths that it has BatchNorm statistics for, in its order.

    norm: "switchable" where each width has an affine of its own.
    plain_norms: BatchNorms that are a single one for all widths.
    """

    network: str
    norm: NormName
    widths: tuple[float, ...]
    plain_norms: tuple[str, ...] = ()


CHECKPOINTS = {
    "s_mobilenet_v1": Checkpoint("mobilenet_v1", "switchable", (0.25, 0.5, 0.75, 1.0)),
    "s_mobilenet_v2": Checkpoint("mobilenet_v2", "switchable", (0.35, 0.5, 0.75, 1.0), V2_TAIL),
    "s_resnet50": Checkpoint("resnet50", "switchable", (0.25, 0.5, 0.75, 1.0)),
    "s_shufflenet": Checkpoint("shufflenet_v1", "switchable", (0.25, 0.5, 1.0)),  # there 0.5, 1 and 2
    "us_mobilenet_v1": Checkpoint("mobilenet_v1", "universal", tuple(n / 40 for n in range(10, 41))),
    "us_mobilenet_v2": Checkpoint("mobilenet_v2", "universal", tuple(n / 40 for n in range(14, 41)), V2_TAIL),
}
PLANNED = {  # their widths are plans, which the file holds
    "autoslim_mobilenet_v1": "mobilenet_v1",
    "autoslim_mobilenet_v2": "mobilenet_v2",
    "autoslim_mnasnet": "mnasnet",
    "autoslim_resnet": "resnet50",
}
PUBLISHED = (*CHECKPOINTS, *PLANNED)


def load_published(name: str, path: str | Path) -> nn.Module:
    """The slimmable network of a checkpoint that the original authors released.

    Args:
        name: of the checkpoint, one of `PUBLISHED`.
        path: the `.pt`, or the zip around it. Nothing in it is run.

    Returns:
        The network in eval mode, for inputs [N, 3, 224, 224] prepared as usual for ImageNet, output [N, 1000],
        at its largest width. `set_width` takes each width of the file: 0.25 to 1 or 0.35 to 1 in steps of 0.025
        of the "us" networks, which run at any width between after `calibrate`; the switches of the "s" networks
        (0.25, 0.5 and 1 of s_shufflenet, which its authors call 0.5, 1 and 2); and `net.plans`, largest first,
        of the "autoslim" networks.

    Raises:
        ValueError: no such name or file, or the file is damaged, would run code, or is another network's; the
            message names what is missing or wrong.

    Source: Yu et al. 2019 (Slimmable Neural Networks); Yu & Huang 2019 (US-Nets); Yu & Huang 2019 (AutoSlim).
    """
    if name not in PUBLISHED:
        near = difflib.get_close_matches(str(name), PUBLISHED, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"no published checkpoint {name!r}; the nearest is {near!r} (there are {', '.join(PUBLISHED)})"
        )
    state = read_state(as_path(path))
    try:
        with no_inference_mode(), own_random_numbers():  # no trace of the first weights
            net = _planned(PLANNED[name], state) if name in PLANNED else _uniform(CHECKPOINTS[name], state)
    except ValueError as error:
        raise ValueError(f"{path} is not a checkpoint of {name}: {error}") from None
    return net.eval()


def _uniform(published: Checkpoint, state: Mapping[str, Tensor]) -> nn.Module:
    net = build(published.network, classes=CLASSES)
    private = norm_named(published.norm).has_private_parameters
    allowed = Switches(*published.widths) if private else WidthRange(published.widths[0], 1.0)
    convert(net, _example(), widths=allowed, norm=published.norm, **net.channel_rule)
    names = shufflenet_names if published.network == "shufflenet_v1" else same_name
    fill(net, origins(net, published.widths, plain_norms=published.plain_norms, names=names), state)
    _remember(net, published.widths)
    return net


def _planned(network: str, state: Mapping[str, Tensor]) -> nn.Module:
    """A network whose switches are the plans that its private BatchNorms tell."""
    layers = build(network, multiplier=0.25).layers
    counts = _channels_of_switches(layers[:-1], state)
    most = [max(switch[layer] for switch in counts) for layer in range(len(layers))]
    _check_weights(network, most, state)
    net = from_channels(network, most)
    layout = follow(net, _example(), **net.channel_rule)
    plans = [plan_of(layout, dict(zip(layers, most, strict=True)), switch) for switch in counts]
    switches = Switches(*plans)
    apply_layout(net, layout, widths=switches, norm="switchable")
    fill(net, origins(net, plans), state)
    net.plans = tuple(reversed(switches.widths))  # type: ignore[assignment]  # a plain attribute
    return net


def _channels_of_switches(layers: Sequence[str], state: Mapping[str, Tensor]) -> list[list[int]]:
    """Output channels of each layer at each switch, the classes last: the sizes of the BatchNorm after it."""
    norms = [re.sub(r"\d+$", lambda number: str(int(number[0]) + 1), layer) for layer in layers]
    switches = 1
    while f"{norms[0]}.bn.{switches}.weight" in state:
        switches += 1
    keys = [[f"{norm}.bn.{switch}.weight" for norm in norms] for switch in range(switches)]
    if missing := differences({key: () for row in keys for key in row if key not in state}, {}):
        raise ValueError(missing)
    return [[state[key].numel() for key in row] + [CLASSES] for row in keys]


def _check_weights(network: str, channels: Sequence[int], state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the file has the weights of these channels; before memory is taken for them."""
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in from_channels(network, channels).named_parameters()}
    weights = {key: shape for key, shape in shapes.items() if len(shape) > 1}
    if wrong := differences(weights, {key: value for key, value in state.items() if key in weights}):
        raise ValueError(wrong)


def _remember(net: Classifier, widths: Sequence[Width]) -> None:
    """Let messages call the calibrated channel numbers by their widths."""
    slimming = slimming_of(net)
    for width in widths:
        slimming.remember(width)


def _example() -> Tensor:
    """Something small to follow the channels on."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
