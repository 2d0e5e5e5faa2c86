"""What a network costs at a width: multiply-adds, parameters, activations; and its latency.

Counting runs the forward on fake tensors, which have shapes but no values: nothing is computed, and
no parameter or buffer is touched.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from slimlib.core.arguments import arguments, run_on
from slimlib.core.norms.batchnorm import SlimBatchNorm
from slimlib.core.random_numbers import unchecked_distributions
from slimlib.core.setting import at_width, in_eval, slimmable_parts
from slimlib.core.slimming import Slimming
from slimlib.core.statistics import is_private
from slimlib.core.swapping import no_autocast
from slimlib.core.width import Width, check_whole
from slimlib.serving.freezing import holds_frozen


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass in eval mode.

    macs: multiply-adds of convolutions, linear layers and other matrix products.
    params: elements of the parameters that are in use at the width.
    activations: bytes of all outputs of convolutions and matrix products together, which says more than
        macs about the time on memory-bound hardware (Radosavovic et al. 2020).
    """

    macs: int
    params: int
    activations: int

    def __str__(self) -> str:
        return f"{self.macs:,} multiply-adds, {self.params:,} parameters, {self.activations:,} bytes of activations"


def cost(net: nn.Module, example: Tensor | tuple[Any, ...], width: Width = 1.0) -> Cost:
    """Count what `net` costs at a width, without computing anything.

    Args:
        net: a slimmable network; at width 1.0 also any other module.
        example: its input (or the tuple of its arguments), of the size to count for; all counts
            but the parameters are for the whole batch.
        width: need not be calibrated.

    Raises:
        ValueError: the width is not allowed here, forward depends on the values of tensors (they are fake here), or the
            network is frozen.
    """
    counted = count_operations(net, example, width)
    return Cost(sum(macs for _, macs in counted.products), counted.params, counted.activations)


@dataclass
class Counted:
    """What one run in eval mode costs: each product with its multiply-adds, in order; the rest as in `Cost`."""

    products: list[tuple[str, int]]
    params: int
    activations: int


def count_operations(net: nn.Module, example: Tensor | tuple[Any, ...], width: Width) -> Counted:
    """The same as `cost`, product by product."""
    if holds_frozen(net):
        raise ValueError("a frozen network has no cost of its own; ask for the cost of the one it was made from")
    with no_autocast(), _set_to(net, width), _left_as_it_was(net), _all_widths_calibrated(net), _unfused():
        counter = _count(net, arguments(net, example))
        return Counted(counter.products, _active_params(net), counter.activations)


def _count(net: nn.Module, args: tuple[Any, ...]) -> _Counter:
    tensors = [*net.parameters(), *net.buffers(), *tree_leaves(args)]
    if all(x.is_meta for x in tensors if isinstance(x, Tensor)):  # has shapes alone, and needs no fake tensors
        with suppress(RuntimeError, NotImplementedError):  # which tell what is wrong
            return _counted_within(nullcontext(), net, args, _Counter(shapes_alone=True))
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            fakes = tree_map_only(Tensor, fake.from_tensor, args)
        return _counted_within(fake, net, fakes, _Counter(shapes_alone=True))
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ValueError(
            f"cost follows shapes, but the forward of {type(net).__name__} looks at values: {error}"
        ) from error
    except (RuntimeError, NotImplementedError):  # some operations of torch run, but not on shapes alone
        return _counted_within(nullcontext(), net, args, _Counter(shapes_alone=False))


def _counted_within(
    mode: AbstractContextManager[Any], net: nn.Module, args: tuple[Any, ...], counter: _Counter
) -> _Counter:
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), unchecked_distributions(), mode, counter:
        run_on(net, args)
    return counter


def latency(
    net: nn.Module, example: Tensor | tuple[Any, ...], width: Width = 1.0, *, repeats: int = 50, warmup: int = 5
) -> float:
    """Measure one forward pass at a width, in eval mode: the median over `repeats`, in milliseconds.

    Ratios between widths mean most when measured on one thread of an idle machine.

    Raises:
        ValueError: the width is not allowed here, or an impossible number.
        UncalibratedWidth: it has no BatchNorm statistics.
    """
    check_whole(repeats=(repeats, 1), warmup=(warmup, 0))
    args = arguments(net, example)
    device = next((leaf.device for leaf in tree_leaves(args) if isinstance(leaf, Tensor)), torch.device("cpu"))
    with _set_to(net, width), in_eval(net), torch.inference_mode():
        seconds = [timed(net, args, device) for _ in range(warmup + repeats)]
    return 1e3 * statistics.median(seconds[warmup:])


def timed(
    net: Callable[..., Any],
    args: tuple[Any, ...],
    device: torch.device,
    now: Callable[[], float] | None = None,
) -> float:
    """Seconds of one forward pass, by `now`; None: by the wall clock."""
    now = now or time.perf_counter
    wait_for(device)
    begin = now()
    run_on(net, args)
    wait_for(device)
    return now() - begin


def computing_clock(device: torch.device) -> Callable[[], float]:
    """What tells seconds: where one thread of a CPU computes, those that it does, whatever other processes do."""
    return time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


KEEPING_SHAPE: Mapping[Any, Callable[[Tensor], Any]] = {
    torch.ops.aten.native_batch_norm.default: lambda x: (torch.empty_like(x), x.new_empty(0), x.new_empty(0)),
    torch.ops.aten.hardtanh.default: torch.empty_like,
    torch.ops.aten.hardtanh_.default: lambda x: x,
}
"""What torch computes the shapes of by many other operations, a millisecond each; in eval mode."""


class _Counter(TorchDispatchMode):
    """Notes the multiply-adds and adds up the output bytes of every convolution and matrix product that runs.

    Args:
        shapes_alone: no tensor has values, so that an operation that keeps its input's shape need not run.
    """

    def __init__(self, *, shapes_alone: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: list[tuple[str, int]] = []
        self.activations = 0
        self.keeping_shape = KEEPING_SHAPE if shapes_alone else {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (shaped := self.keeping_shape.get(func)) is not None:
            return shaped(args[0])
        count = flop_registry.get(func._overloadpacket)
        if count is None and func is not torch.ops.prim.device.default:
            with self:  # an operation made of others (attention, say) is counted by its parts
                if (parts := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return parts
        out = func(*args, **kwargs)
        if count is not None:
            macs = count(*args, **kwargs, out_val=out) // 2  # the registry counts a multiply-add as two
            self.products.append((func.__name__, macs))
            first = out[0] if isinstance(out, tuple) else out
            self.activations += first.numel() * first.element_size()
        return out


def _active_params(net: nn.Module) -> int:
    """Elements of the slices in use; a parameter that several modules share counts once."""
    sizes: dict[int, int] = {}
    for module in net.modules():
        for name, full in module._parameters.items():
            if full is not None and not is_private(name):
                active = getattr(module, name)  # also where it is gathered only when it is read
                sizes[id(full)] = active.numel()
    return sum(sizes.values())


@contextmanager
def _set_to(net: nn.Module, width: Width) -> Iterator[None]:
    """The network at a width; a plain module has only 1.0."""
    try:
        parts = slimmable_parts(net)
    except ValueError:
        if width != 1.0:
            raise
        yield
        return
    for part in parts:
        if isinstance(part, Slimming) and part.stale():
            part.refresh()  # here, as what the forward prepares under fake tensors would stay fake
    with at_width(net, width):
        yield


@contextmanager
def _left_as_it_was(net: nn.Module) -> Iterator[None]:
    """In eval mode within; afterwards without any fake tensor that forward may have kept in a module or its objects."""
    before = [(module, dict(module.__dict__), dict(module._buffers)) for module in net.modules()]
    objects = {id(value): value for _, attributes, _ in before for value in attributes.values() if _is_object(value)}
    kept = [(value, dict(value.__dict__)) for value in objects.values()]
    net.eval()
    try:
        yield
    finally:
        for value, attributes in kept:
            value.__dict__.clear()
            value.__dict__.update(attributes)
        for module, attributes, buffers in before:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)


def _is_object(value: Any) -> bool:
    """Whether a forward may keep something in it, as a policy in what its actions are drawn from."""
    kind = type(value)
    return (
        kind.__module__ not in ("builtins", "collections")
        and hasattr(value, "__dict__")
        and not (isinstance(value, nn.Module | Tensor | type) or callable(value))
    )


@contextmanager
def _all_widths_calibrated(net: nn.Module) -> Iterator[None]:
    """Give BatchNorm without statistics at this width some, as their values do not matter here."""
    for module in net.modules():
        if isinstance(module, SlimBatchNorm) and module.running_mean is None:
            full: Any = module._buffers["running_mean"]
            some = full.new_zeros(module.num_features)
            module.__dict__.update(running_mean=some, running_var=some)
    yield  # `_left_as_it_was` takes them out again


@contextmanager
def _unfused() -> Iterator[None]:
    """Attention and recurrent layers run as plain products, which can be counted."""
    mkldnn: Any = torch.backends.mkldnn
    before = torch.backends.mha.get_fastpath_enabled(), mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    mkldnn.enabled = False
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before[0])
        mkldnn.enabled = before[1]


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
