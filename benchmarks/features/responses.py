"""What channels respond to: how alike they are between widths, and the parts of images that excite them most."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.layout import Axis, axis_index
from slimlib.core.setting import slimming_of
from slimlib.core.swapping import logical_weight

PLACES = 4096
"""Of all images together, at which the responses of a layer are compared."""


@dataclass(frozen=True)
class Patch:
    """A part of an image that excites a channel.

    Attributes:
        image: its number.
        rows, columns: the pixels that the response depends on.
        response: of the channel, where it is largest in this image.
    """

    image: int
    rows: slice
    columns: slice
    response: float


def layers_of(net: nn.Module) -> dict[str, Axis]:
    """The layers whose responses are looked at, in the order of the network, and the axis of their channels.

    These are the normalisations of channels; in a network without any, its convolutions.
    """
    layout = slimming_of(net).layout
    modules = dict(net.named_modules())
    if layout.norm_inputs:
        return {name: layout.norm_inputs[name] for name in modules if name in layout.norm_inputs}
    found = {}
    for name, module in modules.items():
        weight = logical_weight(module) if isinstance(module, nn.Conv2d) else None
        if weight is not None:
            owner, attribute = weight
            inner = attribute if owner is module else f"parametrizations.weight.{attribute}"
            axis = layout.axes.get(f"{name}.{inner}", {}).get(0)
            if axis is not None:
                found[name] = axis
    return found


def alike(net: nn.Module, inputs: Tensor, widths: Sequence[float]) -> dict[str, Tensor]:
    """How alike a channel's responses are between widths, for each layer: [widths, widths].

    An entry is Pearson's correlation, over the same places of the same images, of the responses that a channel has at
    the two widths; the mean over the channels that both have. Channels that never change are left out; NaN where none
    is left.

    Args:
        net: slimmable, in eval mode, with statistics for these widths.
        inputs: [N, 3, H, W].
    """
    layers = layers_of(net)
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    for width in widths:
        for name, responses in _responses(net, inputs, width, layers).items():
            seen[name].append(_standardised(responses))
    return {name: _correlations(torch.stack(of)) for name, of in seen.items()}


@torch.no_grad()
def _responses(net: nn.Module, inputs: Tensor, width: float, layers: Mapping[str, Axis]) -> dict[str, Tensor]:
    """At random places, the same for each width: [places, channels of the full layer], NaN where one is not active."""
    found = {}
    with slim.at_width(net, width), _outputs_of(net, layers) as outputs:
        net(inputs)
        channels = slimming_of(net).channels
    for name, axis in layers.items():
        flat = outputs[name].movedim(1, -1).flatten(0, -2)  # [N * H * W, active]
        places = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))[:PLACES]
        full = torch.full((len(places), sum(segment.size for segment in axis)), torch.nan, dtype=torch.double)
        full[:, _active(axis, channels)] = flat[places.to(flat.device)].double().cpu()
        found[name] = full
    return found


def _active(axis: Axis, channels: Sequence[int]) -> Tensor:
    index = axis_index(axis, channels)
    return index if isinstance(index, Tensor) else torch.arange(index)


def _standardised(responses: Tensor) -> Tensor:
    """Each channel with mean 0 and deviation 1; NaN where it does not change."""
    deviation, mean = torch.std_mean(responses, 0, correction=0)
    return (responses - mean) / deviation.where(deviation > 1e-9, torch.nan)


def _correlations(responses: Tensor) -> Tensor:
    """Of standardised responses [widths, places, channels] -> [widths, widths]."""
    return torch.stack([(one * responses).mean(1).nanmean(1) for one in responses])


@contextmanager
def _outputs_of(net: nn.Module, layers: Sequence[str] | Mapping[str, Axis]) -> Iterator[dict[str, Tensor]]:
    """Within, what the layers put out in the last forward pass."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, output: found.__setitem__(name, output.clone())  # ReLU may work in place

    handles = [net.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def exciting(net: nn.Module, inputs: Tensor, width: float, layer: str, channel: int, *, count: int) -> list[Patch]:
    """The parts of images that excite a channel most, one an image, the most exciting first.

    The receptive field is found on the image itself: the box around all pixels on which the response depends, which
    is where its gradient is not zero.

    Args:
        inputs: [N, 3, H, W].
        channel: of the full layer.
        count: of patches; there are none where the channel is not active at this width.
    """
    axis = layers_of(net)[layer]
    with slim.at_width(net, width):
        place = (_active(axis, slimming_of(net).channels) == channel).nonzero()
        if not len(place):
            return []
        with _outputs_of(net, [layer]) as outputs:
            with torch.no_grad():
                net(inputs)
            peaks, where = outputs[layer][:, int(place)].flatten(1).max(1)  # [N]
            best = peaks.topk(min(count, len(peaks))).indices
            images = inputs[best].clone().requires_grad_()
            net(images)
            responses = outputs[layer][:, int(place)].flatten(1).gather(1, where[best, None])
            (gradient,) = torch.autograd.grad(responses.sum(), images)
    touched = gradient.abs().sum(1) > 0  # [count, H, W]
    return [
        Patch(int(image), _span(rows.any(1)), _span(rows.any(0)), float(response.detach()))
        for image, rows, response in zip(best, touched, responses[:, 0], strict=True)
    ]


def _span(touched: Tensor) -> slice:
    """From the first to the last that is true; all where none is."""
    found = touched.nonzero()
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, len(touched))
