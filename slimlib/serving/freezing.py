"""`freeze`: a snapshot that serves several widths, with a network prepared for each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slimlib.core.arguments import arguments
from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.setting import check_module, slimming_of, unwrapped
from slimlib.core.swapping import slim_class
from slimlib.core.width import Switches, Width, label
from slimlib.serving.extraction import extract
from slimlib.serving.folding import fold_like

CANNOT_TRAIN = (
    "a frozen network is a snapshot for serving and cannot be trained; "
    "train the network it was made from, then call slimlib.freeze again"
)
Place = tuple[str, str]  # name of a module, name of a tensor in it


class Frozen:
    """`net.slim` of a frozen network: prints as a report of what was frozen and the memory it takes.

    Each thread has its own width; a thread that has set none uses that of the thread that froze the network.
    """

    def __init__(self, nets: Mapping[Width, nn.Module], channels: Mapping[Width, tuple[int, ...]]) -> None:
        self.nets, self.channels = dict(nets), dict(channels)
        self._begin(next(iter(nets)))

    def _begin(self, width: Width) -> None:
        self._default = width, self.nets[width]
        self._own = threading.local()
        self._maker = threading.get_ident()

    def check(self, width: Width) -> None:
        """Raise ValueError, with those that were, unless `width` was frozen."""
        if not any(width == frozen for frozen in self.nets):
            frozen = ", ".join(map(label, self.nets))
            raise ValueError(
                f"width {width} was not frozen; frozen: {frozen}. Freeze it with slimlib.freeze(net, widths)"
            )

    def channels_at(self, width: Width) -> tuple[int, ...]:
        """Active units of each group of the network at a frozen width."""
        return self.channels[width]

    def set(self, width: Width) -> None:
        """Let this thread compute with a width (see `set_width`)."""
        self.check(width)
        net = self.nets[width]
        if threading.get_ident() == self._maker:
            self._default = width, net
        self._own.now = width, net

    @property
    def now(self) -> tuple[Width, nn.Module]:
        """The width of this thread, and its network."""
        try:
            return self._own.now  # type: ignore[no-any-return]
        except AttributeError:
            return self._default

    @property
    def width(self) -> Width:
        """The width of this thread."""
        return self.now[0]

    @property
    def bytes(self) -> int:
        """Of all tensors that the widths compute with; what they share is counted once."""
        storages = (tensor.untyped_storage() for _, _, tensor in self.tensors())
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def tensors(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        """Every tensor that a width computes with, and where it is kept."""
        for net in self.nets.values():
            for module in net.modules():
                for name in module.__dict__.get("frozen_names", ()):
                    yield module, name, module.__dict__[name]

    def __str__(self) -> str:
        alone = sum(tensor.nbytes for _, _, tensor in self.tensors())
        widths = ", ".join(map(label, self.nets))
        return f"frozen at {widths}: {self.bytes:,} bytes, {alone:,} if the widths shared nothing"

    def __getstate__(self) -> dict[str, Any]:
        return {"nets": self.nets, "channels": self.channels, "width": self.width}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.nets, self.channels = state["nets"], state["channels"]
        for net in self.nets.values():
            prepared(net, ())  # a copy of what torch.fx traced has only what torch.fx knows
        share_equal(self.nets)  # a pickle holds each tensor apart
        self._begin(state["width"])


class FrozenNetwork(nn.Module):
    """A network that computes with one of several widths, and has the methods and attributes of that one.

    It is in eval mode and cannot be trained: its parameters are the tensors in use, none of which requires a gradient.
    """

    slim: Frozen

    def __init__(self, nets: Mapping[Width, nn.Module], channels: Mapping[Width, tuple[int, ...]]) -> None:
        super().__init__()
        self.__dict__["slim"] = Frozen(nets, channels)
        self.__dict__["training"] = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._forward_hooks or self._forward_pre_hooks:
            return super().__call__(*args, **kwargs)
        return self.slim.now[1](*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.slim.now[1](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if "slim" not in self.__dict__ or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["slim"].now[1], name)

    def train(self, mode: bool = True) -> FrozenNetwork:
        if mode:
            raise RuntimeError(CANNOT_TRAIN)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> FrozenNetwork:
        if requires_grad:
            raise RuntimeError(CANNOT_TRAIN)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetwork:
        """Move or cast every tensor once; what is the leading part of another stays that."""
        done: dict[int, Tensor] = {}
        for module, name, tensor in list(self.slim.tensors()):
            whole = tensor if tensor._base is None else tensor._base
            moved = done[id(whole)] if id(whole) in done else done.setdefault(id(whole), fn(whole))
            hold(module, name, moved if whole is tensor else moved[: len(tensor)])
        return self

    def named_modules(self, memo: set[nn.Module] | None = None, prefix: str = "", *args: Any, **kwargs: Any) -> Any:
        """The modules of the width that is set."""
        yield prefix, self
        yield from self.slim.now[1].named_modules(memo, prefix, *args, **kwargs)

    def __repr__(self) -> str:
        return f"FrozenNetwork({self.slim}, now:\n{self.slim.now[1]!r})"


def freeze(net: nn.Module, widths: Sequence[Width] | None = None, example: Any = None) -> FrozenNetwork:
    """A snapshot of a slimmable network that serves some widths as fast as their dense networks.

    The network of each width is prepared once: its weights and statistics contiguous, in the memory format of the
    full ones, and shared between widths where they are equal or the leading part of a wider one's. `set_width` then
    swaps a pointer, for the calling thread alone: several threads may compute at different widths. It is a separate
    object in eval mode that cannot be trained and does not follow later changes of `net`: its `parameters()` are the
    tensors of the width that is set, without gradients. `print(frozen.slim)` shows the memory that it takes.

    Args:
        net: a slimmable network, or a module that holds one, which is frozen with it.
        widths: the widths to serve; by default the switches of a switchable network.
        example: an input (or a tuple of arguments); with one, BatchNorm is folded into the layers that feed it,
            which is fastest, and the outputs of each width are compared on it (see `slimlib.serving.folding.fold`);
            the snapshot runs on it once at each width. A network that draws random numbers in eval mode, such as the
            forward of a policy, cannot be compared: give none.

    Raises:
        ValueError: no widths, or one that is not allowed.
        UncalibratedWidth: a width has no BatchNorm statistics.
        RuntimeError: the outputs on `example` differ, or the snapshot fails there.
    """
    net = unwrapped(net)
    source = slimming_of(net)
    if widths is None:
        widths = source.widths.widths if isinstance(source.widths, Switches) else ()
    source.check_all(widths)
    mixins = getattr(net, "frozen_mixins", ())
    nets, found = {}, None
    for width in widths:
        plain = extract(net, width, example)
        if example is not None:
            found = fold_like(plain, example, found)
        nets[width] = prepared(plain, mixins)
    share_equal(nets)
    if example is not None:
        _run(nets, example)
    return FrozenNetwork(nets, {width: source.channels_at(width) for width in widths})


def holds_frozen(net: nn.Module) -> bool:
    """Whether a module is a frozen network, or holds one."""
    check_module(net)
    return any(isinstance(module.__dict__.get("slim"), Frozen) for module in net.modules())


def prepared(plain: nn.Module, mixins: tuple[type, ...]) -> nn.Module:
    """A plain network, put in eval mode, its tensors where Python finds them first."""
    for module in plain.eval().modules():
        for name, value in list(module.__dict__.items()):
            if isinstance(value, Optimizer):
                del module.__dict__[name]
        tensors = {**module._parameters, **module._buffers}
        for name, tensor in tensors.items():
            hold(module, name, None if tensor is None else tensor.detach())
        module.__dict__["frozen_names"] = tuple(name for name, tensor in tensors.items() if tensor is not None)
    if mixins:
        plain.__class__ = slim_class(type(plain), mixins)
    return plain


def hold(module: nn.Module, name: str, tensor: Tensor | None) -> None:
    """Let a module compute with a tensor, and show it where torch looks for parameters and buffers."""
    store: dict[str, Any] = module._buffers if name in module._buffers else module._parameters
    store[name] = module.__dict__[name] = tensor
    if isinstance(module, nn.RNNBase) and name in module._flat_weights_names:
        module._flat_weights[module._flat_weights_names.index(name)] = tensor


def share_equal(nets: Mapping[Width, nn.Module]) -> None:
    """Let a tensor that is equal to one of another width, or to its leading part, be that."""
    known: dict[Place, list[Tensor]] = {}
    places = [
        (module, (path, name))
        for net in nets.values()
        for path, module in net.named_modules()
        for name in module.__dict__["frozen_names"]
    ]
    for module, place in sorted(places, key=lambda found: -found[0].__dict__[found[1][1]].numel()):
        tensor = module.__dict__[place[1]]
        wider = known.setdefault(place, [])
        shared = next((part for whole in wider if (part := _leading(whole, tensor)) is not None), None)
        if shared is None:
            wider.append(tensor)
        else:
            hold(module, place[1], shared)


def _leading(whole: Tensor, tensor: Tensor) -> Tensor | None:
    """The leading part of `whole` that equals `tensor`, laid out as it is; None where there is none."""
    if whole.dim() != tensor.dim() or whole.dtype != tensor.dtype or whole.shape[1:] != tensor.shape[1:]:
        return None
    part = whole if whole.shape == tensor.shape else whole[: len(tensor)]
    return part if part.stride() == tensor.stride() and torch.equal(part, tensor) else None


def _run(nets: Mapping[Width, nn.Module], example: Any) -> None:
    """Raise RuntimeError unless all of the networks run on the example."""
    for width, net in nets.items():
        try:
            with torch.no_grad(), own_random_numbers():
                net(*arguments(net, example))
        except Exception as error:
            raise RuntimeError(
                f"width {label(width)} fails on the example once it is frozen: {type(error).__name__}: {error}. "
                f"What its forward asks of its parameters is only there in slimlib.extract(net, {label(width)})"
            ) from error
