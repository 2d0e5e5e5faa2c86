"""What a network is called with: one input, a tuple of arguments, or arguments by name as tokenizers give them.

Batches are inputs alone; those with labels, as a loader gives them, are refused in the same words everywhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from slimlib.core.setting import unwrapped
from slimlib.core.swapping import dense_class


def arguments(net: nn.Module, example: Any) -> tuple[Any, ...]:
    """The positional arguments of `net` that `example` means.

    A tuple is the arguments; a mapping whose keys are names of arguments of forward gives them by name; anything else
    is the one input. The forward is that of the network itself, within torch's wrappers or frozen.

    Raises:
        ValueError: forward takes an argument that can only be given by name.
    """
    if isinstance(example, tuple):
        return example
    if not isinstance(example, Mapping) or not example:
        return (example,)
    net = unwrapped(net)
    if (widths := getattr(net.__dict__.get("slim"), "nets", None)) is not None:  # frozen: a network for each width
        net = next(iter(widths.values()))
    kind: Any = dense_class(type(net))
    takes = inspect.signature(kind.forward).parameters
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [name for name, parameter in takes.items() if parameter.kind in by_position][1:]  # the first is self
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    known = [key for key in example if key in takes]
    if len(known) < len(example) and not (any_name and (known or not named)):
        return (example,)
    if alone := [key for key in example if key not in named]:
        raise ValueError(
            f"argument {alone[0]!r} of {type(net).__name__}.forward can only be given by name; "
            "wrap the network in a module whose forward takes it by position"
        )
    given, args = dict(example), []
    for name in named:
        if not given:
            break
        args.append(given.pop(name, takes[name].default))
    return tuple(args)


def run_on(forward: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """What a network, or a function in its place, makes of the arguments of a batch.

    Raises:
        ValueError: it takes no such batch, as one with its labels.
    """
    try:
        return forward(*args)
    except (AttributeError, TypeError) as error:
        alone = len(args) == 1
        if not isinstance(args[0], list | str | float | int | None) if alone else _takes(forward, args):
            raise
        raise ValueError(
            f"forward does not take a batch that is a {type(args[0] if alone else args).__name__} ({error}); give the "
            "inputs alone, for example [x for x, _ in loader], or tuples of the arguments of forward"
        ) from error


def _takes(forward: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether it can be called with so many arguments."""
    try:
        inspect.signature(unwrapped(forward).forward if isinstance(forward, nn.Module) else forward).bind(*args)
    except TypeError:
        return False
    except ValueError:  # of a function in C
        pass
    return True


def check_batches(what: str, batches: object) -> None:
    """Raise ValueError unless these may be batches: a tensor is one batch, and its rows are none."""
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        kind = f"one tensor {list(batches.shape)}" if isinstance(batches, Tensor) else f"a {type(batches).__name__}"
        raise ValueError(f"{what} must be a list of batches, such as [images] or images.split(64), not {kind}")
