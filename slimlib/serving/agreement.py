"""Whether a network still gives the same outputs after a change, and where it first does not."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.structures import map_tensors, tensors
from slimlib.core.tolerance import Tolerance, check_tells

Outputs = dict[tuple[str, int], list[Tensor]]  # (name of a module, number of its call) -> what it returned


def check_same_outputs(
    net: nn.Module, change: Callable[[nn.Module], None], args: tuple[Any, ...], *, instead_of: Mapping[str, str]
) -> None:
    """Change a copy of a network and compare their outputs, in double precision if the network can.

    Args:
        net: is neither changed nor run itself.
        change: may take modules out; those that stay keep their names.
        args: of forward.
        instead_of: module of the changed network -> module of `net` whose output it then returns.

    Raises:
        ValueError: `net` puts out no finite number.
        RuntimeError: the outputs differ, first in the module that is named, or the changed network fails.
    """
    exactly, tolerance = double, Tolerance()
    try:
        after = double(net)
        expected = run(after, double(args))
    except Exception:  # a forward names a type, or the device has no double precision
        exactly, tolerance = copy.deepcopy, Tolerance.of(net)
        after = copy.deepcopy(net)
        expected = run(after, copy.deepcopy(args))
    check_tells(expected)

    def failure(after: nn.Module) -> Exception | bool:
        change(after)
        try:
            got = run(after, exactly(args))
        except Exception as error:  # told below
            return error
        return any(tolerance.differ(a, b) for a, b in zip(expected, got, strict=True))

    # Copies take most of the time, so that one runs twice; where a run leaves traces, a fresh one decides.
    if not failure(after):
        return
    kind, failed = type(net).__name__, failure(exactly(net))
    if isinstance(failed, Exception):
        raise RuntimeError(
            f"the folded {kind} fails on the example: {type(failed).__name__}: {failed}. "
            "Does its forward do more with a norm, a dropout or an nn.Sequential than to call it?"
        ) from failed
    if failed:
        change(changed := exactly(net))
        where = first_difference(exactly(net), changed, exactly(args), instead_of=instead_of, tolerance=tolerance)
        raise RuntimeError(
            f"the folded {kind} returns different outputs on the example, first in {where}. "
            "Does its forward look at the classes of its modules?"
        )


def double(x: Any) -> Any:
    """A copy of a network, or of arguments, in double precision."""
    x = copy.deepcopy(x)
    if isinstance(x, nn.Module):
        return x.double()
    return map_tensors(lambda t: t.double() if t.is_floating_point() else t, x)


def run(net: nn.Module, args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors that a network returns, with the same random numbers each time; it may change the network."""
    with torch.no_grad(), own_random_numbers():
        return tensors(net(*args))


def first_difference(
    before: nn.Module, after: nn.Module, args: tuple[Any, ...], *, instead_of: Mapping[str, str], tolerance: Tolerance
) -> str:
    """The first module that returns something else."""
    expected, got = module_outputs(before, args), module_outputs(after, args)
    for (name, call), outputs in got.items():
        others = expected.get((instead_of.get(name, name), call), ())
        if name and any(tolerance.differ(a, b) for a, b in zip(others, outputs, strict=False)):
            return f"'{name}' ({type(after.get_submodule(name)).__name__})"
    return "its own forward"


def module_outputs(net: nn.Module, args: tuple[Any, ...]) -> Outputs:
    """What each call of each module returned, in the order in which they did."""
    outputs: Outputs = {}
    calls: Counter[str] = Counter()

    def noting(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            outputs[name, calls[name]] = [t.clone() for t in tensors(output)]
            calls[name] += 1

        return note

    handles = [module.register_forward_hook(noting(name)) for name, module in net.named_modules()]
    try:
        run(net, args)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
