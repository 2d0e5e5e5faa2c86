"""The inputs that a network is exported with: an example, which of its sizes stay free, and others made from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from slimlib.core.structures import tensors
from slimlib.core.width import is_whole

BATCH = "batch"


@dataclass(frozen=True)
class Inputs:
    """Arguments of a forward.

    Attributes:
        args: the example.
        dynamic: dimension of every tensor in it -> name, for those that may have any size; 0 is the batch.
    """

    args: tuple[Any, ...]
    dynamic: Mapping[int, str]

    @staticmethod
    def of(args: tuple[Any, ...], dynamic: Mapping[int, str]) -> Inputs:
        """The inputs made of the arguments of an example and of what may vary besides the batch.

        Raises:
            ValueError: the tensors of the example have no common batch, or `dynamic` does not fit them.
        """
        if not isinstance(dynamic, Mapping):
            raise ValueError(f"dynamic={dynamic!r} must be of the form {{2: 'height', 3: 'width'}}")
        inputs = Inputs(args, {0: BATCH, **dynamic})
        _check_batch(inputs)
        _check_dynamic(inputs, dynamic)
        return inputs

    @property
    def tensors(self) -> list[Tensor]:
        return tensors(self.args)

    @property
    def shapes(self) -> str:
        """The shapes of the example, for messages."""
        return shapes(self.args)

    @property
    def batch(self) -> int:
        return self.tensors[0].shape[0]

    def sized(self, sizes: Mapping[int, int], times: Mapping[int, int] | None = None) -> tuple[Any, ...]:
        """The arguments with other sizes in some dimensions, or that many times the size, by repeating the example."""

        def resize(tensor: Tensor) -> Tensor:
            wanted = dict(sizes) | {
                dim: n * tensor.shape[dim] for dim, n in (times or {}).items() if dim < tensor.dim()
            }
            for dim, size in wanted.items():
                tensor = tensor.index_select(dim, torch.arange(size) % tensor.shape[dim])
            return tensor

        args: tuple[Any, ...] = tree_map_only(Tensor, resize, self.args)
        return args

    def to_trace(self) -> tuple[Any, ...]:
        """The arguments with a batch of at least two, as torch.export takes a size of one for a constant."""
        return self.args if self.batch > 1 else self.sized({0: 2})

    def to_check(self) -> Iterator[tuple[Any, ...]]:
        """The example, one with another batch and, if sizes are dynamic, one with others that are not equal."""
        yield self.args
        yield self.sized({0: 1 if self.batch > 1 else 3})
        times = {dim: 2 + number for number, dim in enumerate(dim for dim in self.dynamic if dim)}
        if times:
            yield self.sized({0: 1}, times)

    def free(self) -> Any:
        """What torch.export wants to know of each argument. Sizes but the batch may depend on each other."""
        auto, batch = torch.export.Dim.AUTO, torch.export.Dim(BATCH)

        def of(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return None
            return {dim: auto if dim else batch for dim in self.dynamic if dim < leaf.dim()}

        return tree_map(of, self.args)


def shapes(tree: Any) -> str:
    """Their shapes, for messages."""
    return ", ".join(str(list(tensor.shape)) for tensor in tensors(tree))


def _check_batch(inputs: Inputs) -> None:
    if not inputs.tensors:
        raise ValueError("the example holds no tensor; give an input [N, ...], or a tuple of the arguments of forward")
    if any(tensor.dim() == 0 or tensor.numel() == 0 for tensor in inputs.tensors):
        raise ValueError(
            f"every tensor of the example needs a first dimension, the batch, and values; got {inputs.shapes}"
        )
    if len({tensor.shape[0] for tensor in inputs.tensors}) > 1:
        raise ValueError(
            "the first dimension of every tensor is the batch, and must be the same in all; "
            f"the example has {inputs.shapes}"
        )


def _check_dynamic(inputs: Inputs, dynamic: Mapping[int, str]) -> None:
    largest = max(tensor.dim() for tensor in inputs.tensors) - 1
    for dim in dynamic:
        if not is_whole(dim, 1) or dim > largest:
            raise ValueError(f"dynamic has dimension {dim!r}; possible for inputs {inputs.shapes}: 1 to {largest}")
    names = list(inputs.dynamic.values())
    if not all(isinstance(name, str) and name.isidentifier() for name in names) or len(set(names)) < len(names):
        raise ValueError(f"dynamic needs a name of its own for each dimension, and 0 is {BATCH!r}; got {dict(dynamic)}")
