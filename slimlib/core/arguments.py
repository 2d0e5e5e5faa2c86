"""What a network is called with: one input, a tuple of arguments, or arguments by name as tokenizers give them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from slimlib.core.swapping import dense_class


def arguments(net: nn.Module, example: Any) -> tuple[Any, ...]:
    """The positional arguments of `net` that `example` means.

    A tuple is the arguments; a mapping whose keys are names of arguments of forward gives them by name; anything else
    is the one input.

    Raises:
        ValueError: forward takes an argument that is given by its name alone.
    """
    if isinstance(example, tuple):
        return example
    if not isinstance(example, Mapping) or not example:
        return (example,)
    if isinstance(net, DistributedDataParallel):
        net = net.module
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
            f"argument {alone[0]!r} of {type(net).__name__}.forward is given by its name alone; "
            "wrap the network in a module whose forward takes it by position"
        )
    given, args = dict(example), []
    for name in named:
        if not given:
            break
        args.append(given.pop(name, takes[name].default))
    return tuple(args)
