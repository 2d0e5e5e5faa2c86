"""How any module computes with a part of its parameters: views swapped into the instance.

Python finds an attribute in an instance's `__dict__` before it asks `nn.Module.__getattr__` for a
parameter. So `module.__dict__["weight"] = module._parameters["weight"][:k]` makes every forward, of
any class, compute with the first k rows, while `parameters()`, `state_dict()` and the optimizer
still see the whole. Setting a width is one dict update a layer; nothing is decided in `forward`.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from slimlib.core.layout import Axis, axis_index, axis_size
from slimlib.core.numbers import held_numbers, layer_numbers
from slimlib.core.statistics import STATISTICS, OfWidth
from slimlib.core.tracing import as_constant

Swaps = dict[str, Any]
Ready = Sequence[tuple[Callable[[Swaps], None], Swaps]]  # the `update` of a module's `__dict__`, and what goes there
Gather = tuple[str, Tensor, tuple[tuple[int, Tensor], ...]]  # attribute, source, (dimension, positions) of each


class Owner(Protocol):
    """What a module needs to know of the network that it belongs to (see slimlib.core.slimming)."""

    dirty: bool

    def refusal(self) -> str: ...


class SwapsOut:
    """Mixin of every module that something may be swapped into: copies and pickles hold the full layer."""

    full_numbers: Mapping[str, Any] = {}
    recipe: ClassRecipe | None = None
    slimming: Owner | None = None  # the state of the network that the module belongs to

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if self.slimming is not None and (name in self._parameters or name in self._buffers):
            self.slimming.dirty = True  # load_state_dict(assign=True) comes here, too
        super().__setattr__(name, value)

    def get_parameter(self: Any, target: str) -> nn.Parameter:
        path, _, name = target.rpartition(".")
        whole = self.get_submodule(path)._parameters.get(name)  # an attribute of that name may be the active part
        return whole if isinstance(whole, nn.Parameter) else super().get_parameter(target)  # type: ignore[misc]

    def __delattr__(self: Any, name: str) -> None:
        if self.slimming is not None and name in self._parameters and name in self.__dict__:
            raise ValueError(
                f"'{name}' of this {type(self).__name__} slims and cannot be taken away; "
                "do what takes it (weight norm, parametrizations, pruning) before slimlib.convert, and take "
                "DistributedDataParallel in place of FSDP"
            )
        super().__delattr__(name)

    def _apply(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = super()._apply(*args, **kwargs)  # type: ignore[misc]
        if self.slimming is not None:
            self.slimming.dirty = True
        return done

    def _slow_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        """What torch runs in place of `forward` within torch.jit.trace, to which views are constants: without grad."""
        held: dict[str, Any] = self.__dict__
        before = {name: held[name] for name in (*self._parameters, "to_gather") if name in held}
        held.update({name: as_constant(value) for name, value in before.items()})
        try:
            return super()._slow_forward(*args, **kwargs)  # type: ignore[misc]
        finally:
            held.update(before)

    def __getstate__(self: Any) -> dict[str, Any]:
        inherited: Any = super().__getstate__()
        state: dict[str, Any] = dict(inherited)
        for name in (*self._parameters, *self._buffers, "to_gather"):
            state.pop(name, None)
        for name, value in state.items():
            # A weight that a hook computes anew in each forward cannot be copied with its graph.
            if isinstance(value, Tensor) and not value.is_leaf:
                state[name] = value.detach()
        if type(self).recipe is not None and self.recipe.computed:
            state["_load_state_dict_pre_hooks"] = without_weight_norm_hooks(state["_load_state_dict_pre_hooks"])
        return state | dict(self.full_numbers)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        if self.recipe is None:
            return super().__reduce_ex__(protocol)
        return _new, (type(self).recipe,), self.__getstate__()

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:
        """In this way, too, where a class has one of its own: a GraphModule makes itself anew from its graph."""
        make, args, state = self.__reduce_ex__(4)[:3]
        made = memo[id(self)] = make(*args)
        made.__setstate__(copy.deepcopy(state, memo))
        return made


class Gathers(SwapsOut):
    """Mixin of a module with an axis whose active channels are no plain prefix: they are gathered in each forward."""

    to_gather: tuple[Gather, ...] = ()

    def gather(self: Any) -> None:
        """Put what is gathered into `__dict__`."""
        for name, source, picks in self.to_gather:
            self.__dict__[name] = gathered(source, picks)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.gather()
        out = super().forward(*args, **kwargs)  # type: ignore[misc]
        for name, source, picks in self.to_gather:
            if self.training and name in self._buffers:
                put_back(source, picks, self.__dict__[name])  # the forward may have moved it on
            if not torch.compiler.is_compiling():
                self.__dict__.pop(name, None)
        return out

    def __getattr__(self: Any, name: str) -> Any:
        """What another module than this one reads outside of its forward, as attention does in torch's layers."""
        for gathers, source, picks in self.__dict__.get("to_gather", ()):
            if gathers == name:
                return gathered(source, picks)
        return super().__getattr__(name)  # type: ignore[misc]


def gathered(source: Tensor, picks: Sequence[tuple[int, Tensor]]) -> Tensor:
    """The positions picked, of each dimension, side by side in memory."""
    for dim, index in picks:
        source = source.index_select(dim, index)
    return source.contiguous()


def put_back(source: Tensor, picks: Sequence[tuple[int, Tensor]], active: Tensor) -> None:
    """Write what was gathered to where it came from."""
    if len(picks) == 1:
        source.index_copy_(*picks[0], active)
    elif picks:
        found = dict(picks)
        every = [found.get(dim, torch.arange(size, device=source.device)) for dim, size in enumerate(source.shape)]
        source.index_put_(torch.meshgrid(*every, indexing="ij"), active)
    elif active is not source:
        source.copy_(active)


class GathersFlat(Gathers):
    """Mixin of torch's LSTM, GRU and RNN, which compute with a list of their weights."""

    def gather(self: Any) -> None:
        super().gather()
        self.__dict__["_flat_weights"] = [getattr(self, name, None) for name in self._flat_weights_names]

    def __getstate__(self: Any) -> dict[str, Any]:
        full = [self._parameters.get(name) for name in self._flat_weights_names]
        return super().__getstate__() | {"_flat_weights": full}


@dataclass(frozen=True)
class ClassRecipe:
    """What a slimmable class was made from, so that pickle and deepcopy can make it again."""

    mixins: tuple[type, ...]
    base: type
    computed: tuple[str, ...] = ()


def _new(recipe: ClassRecipe) -> Any:
    made = slim_class(recipe.base, recipe.mixins, recipe.computed)
    return made.__new__(made)


def slim_class(base: type, mixins: tuple[type, ...], computed: tuple[str, ...] = ()) -> Any:
    """`base` with the mixins in front: the class that `convert` gives to a module of class `base`.

    `computed`: tensors that parametrizations compute. torch makes a class for each such module, which
    cannot be pickled; ours has the same properties and can.
    """
    inner = base.__dict__.get("recipe")
    if isinstance(inner, ClassRecipe):  # one class, made from an importable one, so that it can be pickled
        return slim_class(inner.base, (*mixins, *inner.mixins), (*inner.computed, *computed))
    return _made(ClassRecipe(mixins, base, computed))


@cache
def _made(recipe: ClassRecipe) -> Any:
    base = recipe.base
    own: dict[str, Any] = {"recipe": recipe, "__module__": base.__module__, "__doc__": base.__doc__}
    own |= {name: _parametrized(name) for name in recipe.computed}
    name = f"Slim{base.__name__.removeprefix('Slim')}"
    made = type(name, (*recipe.mixins, base), own)
    try:
        object.__setattr__(object.__new__(base), "__class__", made)
    except TypeError:  # a base without a __dict__ comes before nn.Module, as ABC and Generic may
        made = _mixins_first(type(base))(name, (base, *recipe.mixins), own)
    return made


@cache
def _mixins_first(meta: type) -> type:
    """A metaclass: its classes lie in memory as the first of their bases, which is the last to be asked.

    What a class adds to its first base decides whether a module can change to it.
    """

    def mro(cls: Any) -> list[type]:
        base = cls.__bases__[0]
        found = type.mro(cls)[1:]
        return [cls, *[kind for kind in found if not issubclass(base, kind)], *base.__mro__]

    return type("MixinsFirst", (meta,), {"mro": mro})


def _parametrized(name: str) -> property:
    def compute(module: Any) -> Tensor:
        tensor: Tensor = module._modules["parametrizations"]._modules[name]()
        return tensor

    def assign(module: Any, value: Tensor) -> None:
        module.parametrizations[name].right_inverse(value)

    return property(compute, assign)


def dense_class(made: type) -> type:
    """The class that a module had before `convert` gave it the class `made`."""
    recipe = getattr(made, "recipe", None)
    return dense_class(recipe.base) if isinstance(recipe, ClassRecipe) else made


@dataclass
class Slot:
    """A parameter or buffer of a module, and the axes of it that slim; `bounds` of bands with one of their own."""

    store: Mapping[str, Tensor | None]
    name: str
    axes: Mapping[int, Axis]
    contiguous: bool = False
    bounds: Sequence[tuple[int, ...]] = ()

    def tensor(self, channels: tuple[int, ...]) -> Tensor | None:
        """The whole of what is seen at these channel numbers of the network."""
        band = next((bound for bound in self.bounds if sum(channels) <= sum(bound)), None)
        return self.store[self.name if band is None else str(OfWidth(self.name, band))]

    def tensors(self) -> list[Tensor | None]:
        """What is seen at some channel numbers."""
        return [self.store[self.name], *(self.store[str(OfWidth(self.name, bound))] for bound in self.bounds)]

    @cached_property
    def gathers(self) -> bool:
        """Whether some width leaves an axis here that is no plain prefix, or its active part must lie together."""
        return self.contiguous or any(not is_prefix(axis) for axis in self.axes.values())


class Part:
    """One module of a converted network, with everything in it that depends on the width."""

    def __init__(
        self,
        module: nn.Module,
        slots: list[Slot],
        weight: Slot | None = None,
        entering: Axis | None = None,
        held: Mapping[str, Axis] | None = None,
    ) -> None:
        """`weight` and `entering` tell the numbers of a layer that is known; `held` are attributes -> their axes."""
        self.module, self.slots, self.weight, self.entering = module, slots, weight, entering
        self.held = held or {}

    @property
    def gathers(self) -> bool:
        """Whether some width leaves an axis here that is no plain prefix."""
        return any(slot.gathers for slot in self.slots)

    def active(self, tensor: Tensor, channels: tuple[int, ...]) -> Tensor:
        """The active part of a tensor [C] with a value for each channel of this BatchNorm."""
        axes = next((slot.axes for slot in self.slots if slot.name == STATISTICS[0]), None)
        index = axis_index(axes[0], channels) if axes else len(tensor)  # no axes: it stays full
        return tensor[:index] if isinstance(index, int) else tensor[index.to(tensor.device)]

    def swaps(self, channels: tuple[int, ...]) -> Swaps:
        """What to put into the module's `__dict__` for these channel numbers; views that autograd follows."""
        self.module.__dict__.update(getattr(self.module, "full_numbers", {}))
        swaps, gathers = self.numbers(channels), []
        for slot in self.slots:
            tensor = slot.tensor(channels)
            if tensor is None:
                self.module.__dict__.pop(slot.name, None)
                continue
            shape, picks = list(tensor.shape), []
            for dim, axis in slot.axes.items():
                index = axis_index(axis, channels)
                if isinstance(index, Tensor):
                    picks.append((dim, index.to(tensor.device)))
                else:
                    shape[dim] = index
            view = tensor if shape == list(tensor.shape) else leading(tensor, shape)
            if slot.gathers:  # never in `__dict__` between forwards, where it would hide what another width gathers
                gathers.append((slot.name, view, tuple(picks)))
            else:
                swaps[slot.name] = view
        if isinstance(self.module, Gathers):
            swaps["to_gather"] = tuple(gathers)
        return swaps

    def numbers(self, channels: tuple[int, ...]) -> Swaps:
        """The numbers of the module at these channels; it must show its full ones when this is called."""
        held = held_numbers(self.module, {name: axis_size(axis, channels) for name, axis in self.held.items()})
        if self.weight is None and self.entering is None:
            return held
        slot = self.weight

        def size(dim: int) -> int:
            assert slot is not None
            tensor = slot.store[slot.name]
            assert tensor is not None
            return axis_size(slot.axes[dim], channels) if dim in slot.axes else tensor.shape[dim]

        entering = None if self.entering is None else axis_size(self.entering, channels)
        return layer_numbers(self.module, size, entering) | held


def leading(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A view of the leading part of `tensor`, of this shape.

    The gradient of `as_strided` is written once, in the memory format of the whole; that of one `narrow`
    after another is written once for each dimension, and copied again for channels_last.
    """
    return tensor.as_strided(shape, tensor.stride(), tensor.storage_offset())


def is_prefix(axis: Axis) -> bool:
    """Whether the active channels of an axis are its leading ones at every width."""
    slims = [segment.group is not None for segment in axis]
    return not any(slims[:-1]) and (not slims[-1] or axis[-1].start == 0)


def logical_weight(module: nn.Module) -> tuple[nn.Module, str] | None:
    """Where the full shape of a layer's weight is to be read: itself, or what a parametrization computes it from."""
    if parametrize.is_parametrized(module, "weight"):
        originals: Any = module.parametrizations["weight"]  # type: ignore[index]
        return originals, "original1" if "original1" in originals._parameters else "original"
    for name in ("weight", "weight_v"):  # weight_v: torch.nn.utils.weight_norm, the older form
        if isinstance(module._parameters.get(name), Tensor):
            return module, name
    return None


def swap_in(ready: Ready) -> None:
    for update, swaps in ready:
        update(swaps)


def without_weight_norm_hooks(hooks: Mapping[int, Any]) -> dict[int, Any]:
    """Without torch's local functions that read checkpoints of the older weight norm: they cannot be pickled."""
    names = {key: getattr(getattr(hook, "hook", hook), "__qualname__", "") for key, hook in hooks.items()}
    return OrderedDict((key, hook) for key, hook in hooks.items() if "_weight_norm_compat_hook" not in names[key])


@contextmanager
def no_autocast() -> Iterator[None]:
    """Numbers have the types of the parameters, whatever surrounds the call."""
    with ExitStack() as off:
        for device in ("cpu", torch.accelerator.current_accelerator() or "cpu"):
            kind = torch.device(device).type
            if torch.is_autocast_enabled(kind):
                off.enter_context(torch.autocast(kind, enabled=False))
        yield


def no_inference_mode() -> torch.inference_mode:
    """Views are made outside inference mode, so that a later training step can use them."""
    return torch.inference_mode(False)
