"""The state of one slimmable network: its layout, its width, and what is swapped in for each width."""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.core.heads import Bounds, prepare_heads
from slimlib.core.layout import Layout
from slimlib.core.norms.norm import Norm
from slimlib.core.parts import FULL_STATISTICS, find_parts, slim_part
from slimlib.core.replaced import fitting, refusal
from slimlib.core.statistics import STATISTICS, OfWidth, tracks
from slimlib.core.swapping import Part, Ready, Swaps, no_inference_mode, swap_in
from slimlib.core.width import Switches, Width, WidthPlan, Widths, check_width, label

# How much is kept prepared: a plan of MobileNet v2 takes 0.2 MB, and random plans never end.
REMEMBERED_WIDTHS, REMEMBERED_CHANNELS = 16384, 512


class Slimming:
    """What `net.slim` is: prints as the report of what slims, and knows widths and channel numbers.

    Attributes:
        layout: the channel layout that `convert` found.
        widths: the widths that may be set.
        dirty: a parameter or buffer was replaced since views were made.
        norm: how BatchNorm is kept.
        heads: name of a layer -> where the bands of widths end that have parameters of their own in it.
        width, channels: what is set now, as asked for and as one number of units for each group.
        sorted_times: how often its channels were given other places.
        weighted: the paths of the modules that had parameters when it was made.
        trained: the narrowest channel numbers below the full ones that it has been trained at; None: not at any.
    """

    trained: tuple[int, ...] | None = None
    sorted_times: int = 0
    weighted: frozenset[str] = frozenset()
    _net: Callable[[], nn.Module | None]
    _parts: list[Part] | None
    _modules: Mapping[str, nn.Module] = MappingProxyType({})
    _caches: Sequence[tuple[nn.Module, str]] = ()
    _ready: dict[Width, Ready]
    _shared: dict[tuple[int, ...], Ready]
    _channels: dict[Width, tuple[int, ...]]
    _stores: list[dict[str, Any]]
    _held: list[Tensor | nn.Module | None]
    _ids: list[int]
    _watched: list[nn.Parameter]
    _pointers: list[int]
    _needs_grad: list[bool]

    def __init__(
        self, layout: Layout, widths: Widths, norm: Norm, heads: Mapping[str, Bounds] = MappingProxyType({})
    ) -> None:
        self.layout, self.widths, self.norm, self.heads = layout, widths, norm, dict(heads)
        self.width: Width = 1.0
        self.channels = layout.full
        self._net = lambda: None
        self.labels: dict[tuple[int, ...], str] = {}  # calibrated channel numbers -> the width they were asked for as
        self._forget()

    # -- what a user asks

    def channels_at(self, width: Width) -> tuple[int, ...]:
        """Active units of each group at a width.

        Raises:
            ValueError: a `WidthPlan` that does not fit the groups of this network.
        """
        groups = self.layout.groups
        if not isinstance(width, WidthPlan):
            return self.layout.channels_at(width)
        if len(width.channels) != len(groups):
            raise ValueError(
                f"the WidthPlan has {len(width.channels)} numbers, and this network {len(groups)} groups of layers; "
                "print(net.slim) shows them in order"
            )
        for group, count in zip(groups, width.channels, strict=True):
            if not 1 <= count <= group.units:
                raise ValueError(
                    f"the WidthPlan asks for {count} channels of '{group.name}'; possible: 1 to {group.units}"
                )
        return width.channels

    def check(self, width: Width) -> None:
        """Raise ValueError, with what may be set, unless `width` is that."""
        check_width(width, self.widths)
        if not isinstance(width, WidthPlan):
            return
        channels = self.channels_at(width)
        if not self.norm.has_private_parameters:
            return
        assert isinstance(self.widths, Switches)
        if channels not in map(self.channels_at, self.widths.widths):
            raise ValueError(
                f"{width} is not a switch of this network, and only switches have their own BatchNorm: {self.widths}"
            )

    def check_all(self, widths: Sequence[Width]) -> None:
        """Raise ValueError unless `widths` is a list of widths that may be set, one at least."""
        if not isinstance(widths, Sequence) or not widths:
            raise ValueError(f"widths={widths!r} must be a list of one width or more, such as [0.25, 0.5, 1.0]")
        for width in widths:
            self.check(width)

    @property
    def switches(self) -> list[tuple[int, ...]]:
        """The channel numbers of the switches below the full width; none of a range."""
        found = map(self.channels_at, self.widths.widths if isinstance(self.widths, Switches) else ())
        return [channels for channels in found if channels != self.layout.full]

    @property
    def has_private_parameters(self) -> bool:
        """Whether a width has parameters that get no gradient from the passes of others."""
        return self.norm.has_private_parameters or any(self.heads.values())

    def set(self, width: Width) -> None:
        """Swap in what belongs to a width (see `set_width`)."""
        try:
            ready = self._ready.get(width)
        except TypeError:  # a list or the like, which is told below
            ready = None
        if ready is None or self.dirty:
            ready = self._prepare(width)
        swap_in(ready)
        self.empty_caches()
        self.width = width if isinstance(width, WidthPlan) else float(width)
        self.channels = self._channels[width]

    def empty_caches(self) -> None:
        """Forget what forward kept for its next call, which is of one width."""
        for module, attribute in self._caches:
            module.__dict__[attribute] = {} if isinstance(module.__dict__[attribute], dict) else None

    def __str__(self) -> str:
        """The report: how many layers slim, which do not, and why."""
        layout = self.layout
        slim = {layer for group in layout.groups for layer in group.layers}
        lines = [f"{len(slim)} layers slim in {len(layout.groups)} groups; widths {self.widths}; BatchNorm {self.norm}"]
        for index, group in enumerate(layout.groups):
            more = f" and {len(group.layers) - 1} more that must agree" if len(group.layers) > 1 else ""
            lines.append(f"  group {index}: {group.units} channels of {group.name}{more}")
        for operations in dict.fromkeys(layout.statistics.values()):
            where = [name or "its own forward" for name, found in layout.statistics.items() if found == operations]
            more = f" and {len(where) - 3} more" if len(where) > 3 else ""
            lines.append(f"  over the active channels: {operations} in {', '.join(where[:3])}{more}")
        lines += [f"  {len(bounds) + 1} heads for bands of widths: {name}" for name, bounds in self.heads.items()]
        lines += [f"  full: {layer} ({reason})" for layer, reason in layout.kept.items()]
        lines += [f"  full: {layer} (never ran on the example)" for layer in layout.idle]
        for model in dict.fromkeys(layout.like.values()):
            idle = ", ".join(name for name, other in layout.like.items() if other == model)
            lines.append(f"  as {model}, of the same class: {idle} (never ran on the example)")
        return "\n".join(lines)

    # -- preparation

    def bind(self, net: nn.Module) -> None:
        """Belong to `net`: find the modules that the layout names."""
        self._net = weakref.ref(net)
        found = [path.rpartition(".") for path in self.layout.caches]
        self._caches = [(net.get_submodule(owner), attribute) for owner, _, attribute in found]
        self._modules = {}
        self._forget()

    def net(self) -> nn.Module:
        """The network that this is the state of."""
        net = self._net()
        assert net is not None, "the network of this state is gone"
        return net

    def refresh(self) -> None:
        """Prepare again, since a parameter was replaced, and stay at the width that is set."""
        self._forget()
        self.set(self.width)

    def drop_views(self) -> None:
        """Show whole parameters until `refresh`: a view keeps the node of autograd that was made with it."""
        parts = self.parts
        self._forget()
        for part in parts:
            for name in (*(slot.name for slot in part.slots), "to_gather"):
                part.module.__dict__.pop(name, None)

    def forget(self, channels: tuple[int, ...]) -> None:
        """Prepare again what belongs to these channel numbers, as they have other statistics; stay at the width set."""
        self._shared.pop(channels, None)
        for width in [width for width, found in self._channels.items() if found == channels]:
            del self._ready[width], self._channels[width]
        self.set(self.width)

    def note_training(self) -> None:
        """Remember that the network is trained at the width that is set."""
        if self.channels != self.layout.full and (self.trained is None or sum(self.channels) < sum(self.trained)):
            self.trained = self.channels

    def stale(self) -> bool:
        """Whether views were made of what is no longer there, has moved in memory, or changed its `requires_grad`.

        Replacing a parameter marks the state dirty; another layer, `parameter.data = ...`, `requires_grad`, and what
        torch.func puts in the place of parameters are only noticed here.
        """
        return (
            self.dirty
            or list(map(id, self._now_held())) != self._ids
            or list(map(Tensor.data_ptr, self._watched)) != self._pointers
            or (torch.is_grad_enabled() and [p.requires_grad for p in self._watched] != self._needs_grad)
        )

    @property
    def parts(self) -> list[Part]:
        """The modules in which something depends on the width."""
        if self._parts is None:
            self._parts = self._find_parts()
        return self._parts

    def _find_parts(self) -> list[Part]:
        net = self.net()
        names = {module: name for name, module in net.named_modules()}
        replaced = {name: module for name, module in self._modules.items() if names.get(module) != name}
        came: list[nn.Module] = []
        if replaced:
            self.dirty = True  # until it fits: each call refuses
            self.layout, came = fitting(self.layout, net, replaced)
            prepare_heads({names[module]: module for module in came}, self.heads)
            self.dirty = False
        parts = find_parts(net, self.layout, self.heads)
        for part in parts:
            if part.module in came:
                path = names[part.module]
                slim_part(part, getattr(replaced[path], "name_in_network", path), self, self.layout)
                if tracks(part.module):
                    self.norm.prepare(part, self.switches)
        self._modules = {names[part.module]: part.module for part in parts}
        self.weighted = self.weighted or frozenset(name for module, name in names.items() if module._parameters)
        return parts

    def stranger(self, error: Exception) -> str | None:
        """The module that failed at a narrow width, if it has weights in a place where nothing had any."""
        failed = {id(frame.f_locals.get("self")) for frame, _ in traceback.walk_tb(error.__traceback__)}
        for name, module in self.net().named_modules():
            new = module._parameters and name not in self.weighted
            if new and id(module) in failed and self.channels != self.layout.full:
                return refusal(
                    f"'{name}', a {type(module).__name__}, was added after slimlib.convert, and keeps its full size"
                )
        return None

    def _prepare(self, width: Width) -> Ready:
        self.check(width)
        channels = self.channels_at(width)
        if self.stale():
            self._forget()
        if not self._watched:
            self._watch()
        if len(self._shared) >= REMEMBERED_CHANNELS:
            self._shared, self._ready, self._channels = {}, {}, {}
        if len(self._ready) >= REMEMBERED_WIDTHS:
            self._ready, self._channels = {}, {}
        if channels not in self._shared:
            with torch.enable_grad(), no_inference_mode():
                self._shared[channels] = [(p.module.__dict__.update, self._swaps(p, channels)) for p in self.parts]
        self._ready[width], self._channels[width] = self._shared[channels], channels
        return self._ready[width]

    def _swaps(self, part: Part, channels: tuple[int, ...]) -> Swaps:
        swaps = part.swaps(channels)
        if not tracks(part.module):
            return swaps
        swaps |= FULL_STATISTICS
        if channels == self.layout.full:
            return swaps
        own = self.norm.swaps(part.module, channels)
        if "to_gather" in swaps:
            swaps["to_gather"] = tuple(gather for gather in swaps["to_gather"] if gather[0] not in own)
        return swaps | own

    def refusal(self) -> str:
        """Why the width that is set cannot run in eval mode."""
        asked, known = label(self.width), ", ".join(self.calibrated())
        return (
            f"width {asked} has no BatchNorm statistics; calibrated: {known or 'none but the full width'}. "
            f"Call slimlib.calibrate(net, batches, widths=[{asked}])."
        )

    def calibrated(self) -> list[str]:
        """The widths below the full one that have statistics, for messages."""
        norm = next((part.module for part in self.parts if tracks(part.module)), None)
        names = [OfWidth.parse(name) for name in norm._buffers] if norm else []
        found = [name.channels for name in names if name is not None and name.key == STATISTICS[0]]
        return [self.labels.get(channels, f"the plan {', '.join(map(str, channels))}") for channels in found]

    def remember(self, width: Width) -> None:
        """Let messages call the channel numbers of a width by it."""
        self.labels[self.channels_at(width)] = label(width)

    def _watch(self) -> None:
        self._stores = [part.module._parameters for part in self.parts if part.slots]
        self._stores += [self.net().get_submodule(path)._modules for path in _above(self._modules)]
        self._held = list(self._now_held())
        self._ids = list(map(id, self._held))
        seen = [tensor for part in self.parts for slot in part.slots for tensor in slot.tensors()]
        self._watched = [tensor for tensor in seen if isinstance(tensor, nn.Parameter)]
        self._pointers = [p.data_ptr() for p in self._watched]
        self._needs_grad = [p.requires_grad for p in self._watched]

    def _now_held(self) -> Iterator[Tensor | nn.Module | None]:
        """The parameters of all parts, and the layers; each forward asks, so that no line of Python runs for each."""
        return chain.from_iterable(map(dict.values, self._stores))

    def _forget(self) -> None:
        self._parts = None
        self._ready, self._shared, self._channels = {}, {}, {}
        self._stores, self._held, self._ids = [], [], []
        self._watched, self._pointers, self._needs_grad = [], [], []
        self.dirty = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._net = lambda: None
        self._forget()


def _above(paths: Iterable[str]) -> set[str]:
    """The paths of all modules that hold those at `paths`."""
    found = set()
    for path in paths:
        while path:
            path = path.rpartition(".")[0]
            found.add(path)
    return found
