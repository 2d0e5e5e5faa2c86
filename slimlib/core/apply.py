"""Give the modules of a network the classes that can be sliced, by a layout that is known to fit."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from slimlib.core.heads import Bounds, prepare_heads
from slimlib.core.layout import Layout
from slimlib.core.norms import norm_named
from slimlib.core.norms.norm import Norm
from slimlib.core.parts import as_buffers, find_parts, slim_part
from slimlib.core.slimming import Slimming
from slimlib.core.statistics import tracks
from slimlib.core.swapping import Part, SwapsOut, dense_class, slim_class
from slimlib.core.tracing import cut_in_graph
from slimlib.core.width import WidthRange, Widths

EVERY_WIDTH = WidthRange(1e-3, 1.0)


class SlimRoot(SwapsOut):
    """Mixin of the outermost module of a slimmable network: notices what was replaced, and is copied whole.

    What leaves no trace, `parameter.data = ...` or another layer, is noticed when the network itself is called.
    """

    slim: Slimming

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        """A network never comes here: what is made by its class, as slices of nn.Sequential are, is a dense module."""
        self.__class__ = dense_class(type(self))
        self.__init__(*args, **kwargs)

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_exporting():
            with cut_in_graph(self):
                return super().__call__(*args, **kwargs)  # type: ignore[misc]
        if torch.compiler.is_compiling():
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        if self.slim.stale():
            self.slim.refresh()
        if self.training and torch.is_grad_enabled():
            self.slim.note_training()
        try:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        except RuntimeError as error:
            if (why := self.slim.stranger(error)) is None:
                raise
            raise ValueError(f"{why} ({error})") from error

    def __getstate__(self: Any) -> dict[str, Any]:
        if self.slim.stale():
            self.slim.refresh()  # a layer that was put into the network is copied as one that slims
        state: dict[str, Any] = super().__getstate__()
        return state

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        self.slim.bind(self)
        self.slim.refresh()

    def _apply(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = super()._apply(*args, **kwargs)
        self.slim.refresh()
        return done


def apply_layout(
    net: nn.Module,
    layout: Layout,
    *,
    widths: Widths | None = None,
    norm: str | Norm = "universal",
    by_hand: bool = False,
    heads: Mapping[str, Bounds] = MappingProxyType({}),
) -> nn.Module:
    """Make `net` slimmable, in place, by a layout of this very network; returns it at its largest width.

    `by_hand`: its layers are slim already and read their inputs off what arrives. `heads`: see `Slimming.heads`.

    Raises:
        ValueError: a switch is a `WidthPlan` of another network.
    """
    slimming = Slimming(layout, widths or EVERY_WIDTH, norm if isinstance(norm, Norm) else norm_named(norm), heads)
    # A plan of another network is refused before this one is touched.
    switches = slimming.switches
    as_buffers(net, layout.axes)
    prepare_heads({name: net.get_submodule(name) for name in heads}, heads)
    names = {module: name for name, module in net.named_modules()}
    parts = {part.module: part for part in find_parts(net, layout, heads)}
    for module in [m for m in net.modules() if parametrize.is_parametrized(m)]:
        parts.setdefault(module, Part(module, []))  # so that it can be copied and pickled, too
    for part in parts.values():
        slim_part(part, None if by_hand else names[part.module], slimming, layout)
        if tracks(part.module):
            slimming.norm.prepare(part, switches)
    net.__class__ = slim_class(type(net), (SlimRoot,))
    net.__dict__.update(slim=slimming, slimming=slimming)
    slimming.bind(net)
    slimming.set(1.0 if 1.0 in slimming.widths else slimming.widths.largest)
    return net
