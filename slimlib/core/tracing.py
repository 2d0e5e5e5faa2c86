"""A network at the width that is set, as torch.jit.trace and torch.export see it.

Both know a network by its parameters, and take any other tensor for a constant. The views that are swapped in
carry the graph that leads to their parameters, which a constant must not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def as_constant(swapped: Any) -> Any:
    """What is swapped in, views without their graph; for torch.jit.trace.

    Args:
        swapped: a tensor, or the `to_gather` of a module.
    """
    if isinstance(swapped, tuple):
        return tuple((name, as_constant(source), picks) for name, source, picks in swapped)
    return swapped.data if _is_view(swapped) else swapped


@contextmanager
def cut_in_graph(net: nn.Module) -> Iterator[None]:
    """Within the block views are cut out of their parameters again, so that torch.export sees it happen."""
    before = []
    for module in net.modules():
        held, parameters = module.__dict__, module._parameters
        views = {name: held[name] for name in parameters if _is_view(held.get(name))}
        anew = {name: _cut(parameters[name], view.shape) for name, view in views.items()}
        if gathers := held.get("to_gather"):
            views["to_gather"] = gathers
            anew["to_gather"] = tuple((name, _source(module, name, source), picks) for name, source, picks in gathers)
        before.append((held, views))
        held.update(anew)
    try:
        yield
    finally:
        for held, views in before:
            held.update(views)


def _is_view(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_leaf


def _source(module: nn.Module, name: str, source: Tensor) -> Tensor:
    whole = module._parameters.get(name)
    return source if whole is None else _cut(whole, source.shape)


def _cut(whole: Any, shape: Sequence[int]) -> Any:
    for dim, size in enumerate(shape):
        whole = whole if whole.shape[dim] == size else whole.narrow(dim, 0, size)
    return whole
