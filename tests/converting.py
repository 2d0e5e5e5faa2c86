"""Networks of `tests.networks` made slimmable; their channels are followed once in a process, which takes longest.

Tests of what `convert` finds, and of what it leaves alone, call `slimlib.convert` itself.
"""

from __future__ import annotations

from typing import Any

from torch import nn

import slimlib as slim
from slimlib.core.layout import Layout

_LAYOUTS: dict[tuple[str, int], Layout] = {}


def made_slimmable(name: str, net: nn.Module, args: Any, *, divisor: int = 8, **more: Any) -> nn.Module:
    """What `slim.convert` makes of a network of this name."""
    slim.convert(net, args, divisor=divisor, layout=_LAYOUTS.get((name, divisor)), **more)
    _LAYOUTS.setdefault((name, divisor), net.slim.layout)  # type: ignore[union-attr, arg-type]
    return net
