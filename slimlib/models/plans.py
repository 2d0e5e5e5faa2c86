"""From published channel numbers, layer by layer, to a `WidthPlan`, group by group."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from slimlib.core.layout import Layout
from slimlib.core.setting import slimming_of
from slimlib.core.width import WidthPlan


def width_plan(net: nn.Module, published: Sequence[int]) -> WidthPlan:
    """The plan by which a network has these channels.

    Args:
        net: what `build` or `from_channels` made, after `slimlib.convert`.
        published: output channels of each layer in order, depthwise ones left out, a shortcut's projection before
            the body of its block, the number of classes last.

    Raises:
        ValueError: another number of layers, more channels than a layer has, or layers that must agree differ;
            the message names the layer.

    Source: Yu & Huang 2019 (AutoSlim), how their plans are written.
    """
    slimming = slimming_of(net)
    layers: tuple[str, ...] | None = slimming.net().__dict__.get("layers")
    if layers is None:
        raise ValueError(
            f"this {type(net).__name__} does not say the order of its layers; "
            "width_plan takes what slimlib.models.build makes, after slimlib.convert"
        )
    tensors = dict(slimming.net().named_parameters())
    full = {layer: tensors[f"{layer}.weight"].shape[0] for layer in layers}
    return plan_of(slimming.layout, full, published)


def plan_of(layout: Layout, full: dict[str, int], published: Sequence[int]) -> WidthPlan:
    """The same for a layout; `full`: the layers in order, and the full channels of each."""
    if len(published) != len(full):
        raise ValueError(
            f"a plan of this network has {len(full)} numbers, from '{next(iter(full))}' to the classifier; "
            f"got {len(published)}"
        )
    group_of = {layer: index for index, group in enumerate(layout.groups) for layer in group.layers}
    units: dict[int, tuple[int, str]] = {}  # group -> its units, and the layer that asked for them
    for (layer, most), channels in zip(full.items(), published, strict=True):
        group = group_of.get(layer)
        if group is None:
            if channels != most:
                raise ValueError(f"layer '{layer}' stays full: it has {most} channels at every width, not {channels}")
            continue
        each = most // layout.groups[group].units
        if not 1 <= channels <= most or channels % each:
            step = f", in steps of {each}" if each > 1 else ""
            raise ValueError(f"layer '{layer}' cannot have {channels} channels; possible: {each} to {most}{step}")
        asked, first = units.setdefault(group, (channels // each, layer))
        if asked != channels // each:
            raise ValueError(
                f"layer '{layer}' has {channels} channels in the plan, but must agree with '{first}', "
                f"which allows {asked * each} here"
            )
    return WidthPlan([units[group][0] for group in range(len(layout.groups))])
