"""`freeze`: a snapshot for serving several widths, with the weights of each prepared once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from slimlib.batchnorm import refuse_uncalibrated
from slimlib.extraction import (
    OURS,
    active_tensor,
    compact,
    fold_weight_norm,
    is_private,
    plain_class,
)
from slimlib.setting import slimming_of
from slimlib.swapping import Ready, Swaps, SwapsOut, slim_class, swap_in
from slimlib.width import Switches, Width, label


class Frozen:
    """What `net.slim` is in a frozen network: the prepared weights of each width."""

    def __init__(self, prepared: dict[Width, dict[str, Swaps]]) -> None:
        self.prepared = prepared  # width -> module name -> what is swapped in
        self.width: Width = next(iter(prepared))
        self._ready: dict[Width, Ready] = {}

    def bind(self, net: nn.Module) -> None:
        modules = dict(net.named_modules())
        self._ready = {
            width: [(modules[name].__dict__.update, swaps) for name, swaps in parts.items()]
            for width, parts in self.prepared.items()
        }
        self.set(self.width)

    def set(self, width: Width) -> None:
        """Swap in the weights of a width (see `set_width`)."""
        ready = self._ready.get(width)
        if ready is None:
            frozen = ", ".join(map(label, self.prepared))
            raise ValueError(
                f"width {width} was not frozen; frozen: {frozen}. Freeze it with slimlib.freeze(net, widths)"
            )
        swap_in(ready)
        self.width = width

    @property
    def device(self) -> torch.device:
        """Where the prepared weights are."""
        swapped = (swaps for parts in self.prepared.values() for swaps in parts.values())
        tensors = (value for swaps in swapped for value in swaps.values() if isinstance(value, Tensor))
        return next(tensors).device

    def convert_tensors(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply `fn` (to a device, a type) to every prepared tensor once."""
        done: dict[int, Tensor] = {}
        for parts in self.prepared.values():
            for swaps in parts.values():
                for name, value in swaps.items():
                    if isinstance(value, Tensor):
                        swaps[name] = done.setdefault(id(value), fn(value))

    def __getstate__(self) -> dict[str, Any]:
        return {"prepared": self.prepared, "width": self.width}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _ready={})


class FrozenRoot(SwapsOut):
    """Mixin of a frozen network: it cannot be trained, so nothing in it can go stale."""

    slim: Frozen

    def train(self: Any, mode: bool = True) -> Any:
        if mode:
            raise RuntimeError(
                "a frozen network is a snapshot for serving and cannot be trained; "
                "train the network it was made from, then call slimlib.freeze again"
            )
        return super().train(mode)  # type: ignore[misc]

    def _apply(self: Any, fn: Any, recurse: bool = True) -> Any:
        done = super()._apply(fn, recurse)
        self.slim.convert_tensors(fn)
        self.slim.bind(self)
        return done

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        self.slim.bind(self)


def freeze(net: nn.Module, widths: Sequence[Width] | None = None) -> nn.Module:
    """A snapshot of a slimmable network that serves some widths as fast as their dense networks.

    The weights of each width are copied once, contiguous, in the memory format of the full ones;
    `set_width` on the snapshot then only swaps pointers. It is a separate object in eval mode: it
    holds no parameters, cannot be trained, and does not follow later changes of `net`.

    Args:
        net: a slimmable network.
        widths: the widths to serve; by default the switches of a switchable network.

    Raises:
        ValueError: no widths, or one that is not allowed.
        UncalibratedWidth: a width has no BatchNorm statistics.
    """
    source = slimming_of(net)
    if widths is None and isinstance(source.widths, Switches):
        widths = source.widths.widths
    if not widths:
        raise ValueError("freeze needs the widths to serve, for example widths=[0.25, 0.5, 1.0]")
    for width in widths:
        source.check(width)
    mixins = getattr(source.net(), "frozen_mixins", (FrozenRoot,))
    frozen = copy.deepcopy(source.net())
    slimming = slimming_of(frozen)
    names = {module: name for name, module in frozen.named_modules()}
    normed = [m for m in frozen.modules() if parametrize.is_parametrized(m)]
    originals = {inner for m in normed for inner in m.parametrizations.modules()}  # type: ignore[union-attr]
    varies = {part.module for part in slimming.parts if part.module not in originals} | set(normed)
    prepared: dict[Width, dict[str, Swaps]] = {}
    for width in widths:
        slimming.set(width)
        prepared[width] = {names[module]: _snapshot(module) for module in varies}
        for module in normed:
            prepared[width][names[module]] |= _computed(module)
    for module in list(frozen.modules()):
        _strip(module, module in varies)
    frozen.__class__ = slim_class(type(frozen), mixins)
    frozen.__dict__["slim"] = state = Frozen(_shared(prepared))
    frozen.train(False)
    state.bind(frozen)
    return frozen


def _snapshot(module: nn.Module) -> Swaps:
    """Dense copies of all tensors of a module at the width that is set, and its numbers."""
    refuse_uncalibrated(module)
    swaps: Swaps = {name: module.__dict__[name] for name in module.__dict__.get("full_numbers", {})}
    if "track_running_stats" in swaps:
        swaps["track_running_stats"] = True
    for store in (module._parameters, module._buffers):
        for name, full in store.items():
            active = active_tensor(module, name)
            if full is not None and active is not None and not is_private(name):
                swaps[name] = compact(active, full)
    return swaps


def _computed(module: nn.Module) -> Swaps:
    parametrized: Any = module.parametrizations
    with torch.no_grad():
        return {name: compact(value := getattr(module, name), value) for name in parametrized}


def _strip(module: nn.Module, varies: bool) -> None:
    """No parameters: what depends on the width is only in the snapshots, the rest becomes buffers."""
    if parametrize.is_parametrized(module):
        fold_weight_norm(module)
    for store in (module._parameters, module._buffers):
        for name, value in list(store.items()):
            module.__dict__.pop(name, None)
            if varies:
                store.pop(name)
                module.__dict__[name] = None
            elif isinstance(value, nn.Parameter):
                store.pop(name)
                module._buffers[name] = value.detach()
    for name in OURS:
        module.__dict__.pop(name, None)
    module.__class__ = plain_class(module)


def _shared(prepared: dict[Width, dict[str, Swaps]]) -> dict[Width, dict[str, Swaps]]:
    """Tensors that are equal at several widths (biases of full layers, say) are kept once."""
    known: dict[tuple[str, str, torch.Size], list[Tensor]] = {}
    for parts in prepared.values():
        for module, swaps in parts.items():
            for name, value in swaps.items():
                if isinstance(value, Tensor):
                    like = known.setdefault((module, name, value.shape), [])
                    swaps[name] = next(
                        (t for t in like if torch.equal(t, value) and t.stride() == value.stride()), value
                    )
                    like.append(swaps[name])
    return prepared
