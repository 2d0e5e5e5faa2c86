"""Networks written by hand from slim layers: no channels are followed, each layer reads its input."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from slimlib.core.apply import EVERY_WIDTH, apply_layout
from slimlib.core.layers import SLIM_LAYERS
from slimlib.core.layout import Axis, Group, Layout, Segment
from slimlib.core.setting import check_dense, check_module
from slimlib.core.width import Widths, as_widths, fitting_divisor


def adopt(net: nn.Module, *, widths: Widths | None = None) -> nn.Module:
    """Make a network that was written by hand from slimmable layers slimmable, in place.

    No channels are followed: each layer reads its input channels off what arrives, and slims its outputs unless it
    was made with `slim_output=False`, as the last one must be.

    Args:
        net: the network, not yet wrapped (DistributedDataParallel, torch.compile).
        widths: the widths that can be set: a `WidthRange`, or `Switches`; any width in (0, 1] by default.

    Returns:
        `net`, at its largest width.

    Raises:
        ValueError: it has no slim layer, or a norm whose channels only `convert` can follow; it is slimmable already;
            or `widths` is invalid.
    """
    widths = EVERY_WIDTH if widths is None else as_widths(widths)
    check_module(net)
    if isinstance(net, DistributedDataParallel) or "_orig_mod" in net._modules:
        raise ValueError(f"adopt the network first, then wrap it; this one is inside {type(net).__name__} already")
    check_dense(net, "adopt")
    slim: Any = tuple(SLIM_LAYERS.values())
    layers: dict[str, Any] = {n: m for n, m in net.named_modules() if isinstance(m, slim) and not _depthwise(m)}
    if not layers:
        raise ValueError(
            f"nothing in this {type(net).__name__} is slimmable; make it so with slimlib.convert(net, example)"
        )
    for name, module in net.named_modules():
        if isinstance(module, _NormBase | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm):
            raise ValueError(
                f"layer '{name}' ({type(module).__name__}) cannot follow its input by itself; "
                "call slimlib.convert(net, example) once, also for a network written from slim layers"
            )
    groups: list[Group] = []
    axes: dict[str, dict[int, Axis]] = {}
    for name, layer in layers.items():
        if layer.slim_output:
            units, dims, bias = _outputs(layer, len(groups))
            groups.append(Group(name, units, fitting_divisor(units, 8), (name,)))
            prefix = f"{name}." if name else ""
            axes[f"{prefix}weight"] = dims
            if layer.bias is not None:
                axes[f"{prefix}bias"] = {0: bias}
    return apply_layout(net, Layout(tuple(groups), axes), widths=widths, by_hand=True)


def _depthwise(layer: nn.Module) -> bool:
    groups = getattr(layer, "groups", 1)
    return bool(groups > 1 and groups == layer.in_channels)


def _outputs(layer: nn.Module, group: int) -> tuple[int, dict[int, Axis], Axis]:
    """Units of the layer's outputs, the axes of its weight and of its bias."""
    if isinstance(layer, nn.Linear):
        axis = (Segment(group, layer.out_features),)
        return layer.out_features, {0: axis}, axis
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d)
    units = layer.out_channels // layer.groups
    one, every = (Segment(group, units),), (Segment(group, units),) * layer.groups
    return units, {1: one} if isinstance(layer, nn.ConvTranspose2d) else {0: every}, every
