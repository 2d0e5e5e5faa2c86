"""Make any network slimmable: follow its channels, prove what was found, swap the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parallel import DistributedDataParallel

from slimlib.apply import apply_layout
from slimlib.batchnorm import Norm
from slimlib.slimming import Slimming
from slimlib.swapping import no_inference_mode
from slimlib.width import Switches, Widths

NORMS = ("universal", "switchable", "shared")


def convert(
    net: nn.Module,
    example: Any,
    *,
    widths: Widths | None = None,
    norm: Norm = "universal",
    divisor: int = 8,
    keep: Sequence[str] = (),
) -> nn.Module:
    """Make a network slimmable, in place: afterwards `set_width` sets how many channels it computes with.

    The channels are followed through one run on `example`. What reaches the output stays full, as does
    what cannot be followed; `print(net.slim)` tells which layers and why. At width 1.0 the network is
    what it was, bit for bit; parameters, their names and `state_dict` keys do not change.

    Args:
        net: any dense network, not yet wrapped (DistributedDataParallel, torch.compile).
        example: an input [N, ...], or a tuple of the arguments of forward.
        widths: what may be set: a `WidthRange`, or `Switches`; any width in (0, 1] by default.
        norm: BatchNorm is "universal" (shared affine, statistics by `calibrate`), "switchable" (private
            affine and statistics for each of the `Switches`), or "shared" (one of all for all widths).
        divisor: channels are rounded to multiples of it; a narrow layer takes a smaller one.
        keep: names of further modules whose outputs stay full.

    Raises:
        ValueError: something cannot be followed and cannot be kept full, nothing slims, or an argument is wrong.
            The network is then untouched.

    Source: Yu et al. 2019 (Slimmable Neural Networks); Yu & Huang 2019 (US-Nets).
    """
    from slimlib.flow import follow

    check_arguments(net, widths, norm, divisor)
    with no_inference_mode():
        layout = follow(net, example, keep=keep, divisor=divisor)
    return apply_layout(net, layout, widths=widths, norm=norm)


def check_arguments(net: nn.Module, widths: Widths | None, norm: str, divisor: int) -> None:
    """Raise ValueError for what `convert` cannot work with."""
    if isinstance(net, DistributedDataParallel) or "_orig_mod" in net._modules:
        raise ValueError(f"convert the network first, then wrap it; this one is inside {type(net).__name__} already")
    for name, module in net.named_modules():
        if "slim" in module.__dict__ and isinstance(module.__dict__["slim"], Slimming):
            raise ValueError(f"'{name or type(net).__name__}' is slimmable already; convert a network once, as a whole")
        if isinstance(module, _InstanceNorm) and module.track_running_stats:
            raise ValueError(
                f"layer '{name}' ({type(module).__name__}) keeps running statistics, those of one width; "
                "build it with track_running_stats=False"
            )
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} does not exist; choose one of {', '.join(NORMS)}")
    if norm == "switchable" and not isinstance(widths, Switches):
        raise ValueError("norm 'switchable' needs its switches: convert(..., widths=Switches(0.25, 0.5, 1.0))")
    if isinstance(divisor, bool) or not isinstance(divisor, int) or divisor < 1:
        raise ValueError(f"divisor {divisor!r} must be a whole number of channels, at least 1")
