"""Examples on which a network runs as on the one that is given: of other numbers, larger batches, smaller images."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.structures import map_tensors, tensors
from slimlib.flow.context import plain_modules
from slimlib.flow.proof.subject import duplicate
from slimlib.flow.sizes import READS, LooksAtNumbers, zeros_for
from slimlib.flow.steps import COPIES, SEED, FlowError, first_line
from slimlib.flow.trace import unchanged

LARGE = 64  # a dimension of the example with as many elements may be made smaller
FACTORS = (8, 4, 2)


def telling(net: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The example with random numbers instead of zeros, ones or NaN, by which numbers cannot be compared.

    They are of the size of those given, or in [0, 1). The given ones, where the network does not run on others.
    """
    generator = torch.Generator().manual_seed(3)
    drawn: tuple[Any, ...] = map_tensors(partial(_drawn, generator=generator), args)
    if all(map(operator.is_, tensors(drawn), tensors(args))):
        return args
    try:
        _shapes(net, drawn)
    except Exception:
        return args
    return drawn


def _drawn(x: Tensor, generator: torch.Generator) -> Tensor:
    if not x.is_floating_point() or x.layout is not torch.strided or x.numel() < 2:
        return x
    first, numbers = float(x.detach().flatten()[0]), x.isfinite().any() and not x.isnan().any()
    if numbers and not (x == first).all():
        return x
    noise = torch.rand(x.shape, generator=generator)
    if numbers and first:
        noise = first * (1 + noise) / 2
    return torch.empty_like(x).copy_(noise)


def smallest(net: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The smallest images and sequences on which a network runs the same operations; the given ones if there are none.

    Channels do not depend on these sizes, and proofs take as long as all of their runs. An example is too small where
    a dimension of any result becomes 1 that is not in the next larger one.
    """
    before: tuple[Any, ...] | None = None  # the candidate before, and its shapes
    ran: list[torch.Size] = []
    for sizes in _different(_smaller(args)):
        try:
            smaller: tuple[Any, ...] = map_tensors(partial(_cut, sizes=sizes), args)
            shapes = _shapes(net, smaller)
        except Exception:
            continue
        if before is not None and _ones(ran) == _ones(shapes):
            return before
        before, ran = smaller, shapes
    return args if before is None or _ones(ran) != _ones(_shapes(net, args)) else before


def _ones(shapes: Sequence[torch.Size]) -> list[list[int]]:
    return [[dim for dim, size in enumerate(shape) if size == 1] for shape in shapes]


def _smaller(args: tuple[Any, ...]) -> Iterator[Mapping[int, int]]:
    """Sizes of dimensions -> smaller ones: two images instead of more, and all that is large; the smallest first."""
    given = tensors(args)
    batch = {len(x) for x in given if x.dim()}
    few = {size: 2 for size in batch if len(batch) == 1 and size > 2}
    large = {size for x in given for size in x.shape if size >= LARGE and size not in few}
    for factor in FACTORS if large else ():
        yield few | {size: _part(size, factor) for size in large}
    if few:
        yield few


def _different(found: Iterator[Mapping[int, int]]) -> list[Mapping[int, int]]:
    """Each once: parts of a small image are the same, and what two of them show alike is no proof."""
    return [dict(sizes) for sizes in dict.fromkeys(tuple(sizes.items()) for sizes in found)]


def _part(size: int, factor: int) -> int:
    """A part of a size, a multiple of 32 if that is: many networks halve an image five times."""
    step = gcd(size, 32)
    return -(-size // (factor * step)) * step


def _cut(x: Tensor, sizes: Mapping[int, int]) -> Tensor:
    return x[tuple(slice(sizes.get(size, size)) for size in x.shape)]


def _shapes(net: nn.Module, args: tuple[Any, ...]) -> list[torch.Size]:
    """The shapes of what the operations of a run in eval mode gave, which seldom depend on numbers."""
    try:
        return _run(net, args, _Shapes(computes=False))
    except Exception:
        return _run(net, args, _Shapes(computes=True))


def _run(net: nn.Module, args: tuple[Any, ...], shapes: _Shapes) -> list[torch.Size]:
    with torch.no_grad(), own_random_numbers(SEED), unchanged(net), shapes:
        net.eval()(*copy.deepcopy(args))
    return shapes.found


class _Shapes(TorchDispatchMode):
    def __init__(self, *, computes: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.computes = computes
        self.found: list[torch.Size] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        if not self.computes and name in READS:
            raise LooksAtNumbers
        zeros = None if self.computes else zeros_for(name, func, args, kwargs)
        out = func(*args, **kwargs) if zeros is None else zeros
        if name not in COPIES:
            self.found += [x.shape for x in tree_leaves(out) if isinstance(x, Tensor)]
        return out


def twice(net: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Two images instead of one, which is too few for BatchNorm in training; what has no batch stays.

    The new image differs: BatchNorm makes of equal ones nothing but rounding errors.
    """
    alone = [x for x in tensors(args) if x.dim() and len(x) == 1]
    for doubled in (alone, [x for x in alone if x.dim() > 1], alone[:1]):
        many = {id(x) for x in doubled}
        wider: tuple[Any, ...] = map_tensors(partial(_with_another, of=many), args)
        try:
            with torch.no_grad(), own_random_numbers(SEED), unchanged(net):
                net.train()(*copy.deepcopy(wider))
        except (RuntimeError, ValueError, IndexError):
            continue
        return wider
    raise FlowError(str(refusal(net, args, training=True)))


def _with_another(x: Tensor, of: set[int]) -> Tensor:
    if id(x) not in of:
        return x
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)).to(x.device)
    return torch.cat([x, x + noise.to(x.dtype) if x.is_floating_point() else x])


def refusal(net: nn.Module, args: tuple[Any, ...], *, training: bool = False) -> str | None:
    """Which module of a network refuses an example by itself, and what it is given there; None where it runs."""
    copied = duplicate(net)
    running: list[tuple[str, nn.Module, list[list[int]]]] = []

    def enter(name: str, module: nn.Module, given: Any, named: Any) -> None:
        running.append((name, module, [list(x.shape) for x in tensors((given, named))]))

    def leave(*_: Any) -> None:
        running.pop()

    for name, module in plain_modules(copied):
        module.register_forward_pre_hook(partial(enter, name), with_kwargs=True, prepend=True)
        module.register_forward_hook(leave)
    try:
        with torch.no_grad(), own_random_numbers(SEED):
            copied.train(training)(*copy.deepcopy(args))
    except Exception as error:
        name, module, shapes = running[-1] if running else ("", copied, [list(x.shape) for x in tensors(args)])
        where = f"'{name}' ({type(module).__name__})" if name else f"the forward of this {type(net).__name__}"
        told = type(error).__name__ + (f": {first_line(error).rstrip('.')}" if str(error).strip() else "")
        sizes = ", ".join(map(str, shapes)) or "no tensors"
        return (
            f"the network itself does not run on the example{' in training' if training else ''}: {where}, given "
            f"{sizes}, raises {told}; give an example of the kind and sizes that the network is "
            f"{'trained on, of two images at least' if training else 'called with'}"
        )
    return None
