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

    A tuple is the arguments; a mapping whose keys are all names of arguments of forward gives them by name; anything
    else is the one input.

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
    if not all(key in takes for key in example):
        return (example,)
    given, args = dict(example), []
    for name, parameter in list(takes.items())[1:]:  # the first is self
        if not given:
            break
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL):
            raise ValueError(
                f"argument {next(iter(given))!r} of {type(net).__name__}.forward is given by its name alone; "
                "wrap the network in a module whose forward takes it by position"
            )
        args.append(given.pop(name, parameter.default))
    return tuple(args)
