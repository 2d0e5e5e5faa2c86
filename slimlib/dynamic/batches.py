"""The samples of a batch, in whatever a network takes and returns: how many, some of them, several batches as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from slimlib.core.structures import PLAIN, map_tensors, opaque, tensors


def samples_in(args: Any) -> int:
    """How many samples the arguments of a network hold: the first dimension of every tensor that has one.

    Raises:
        ValueError: none has one, or they differ.
    """
    sizes = [len(tensor) for tensor in tensors(args) if tensor.dim()]
    if not sizes:
        raise ValueError("there is no batch here: give an input [N, ...], or any structure of such tensors")
    if len(set(sizes)) > 1:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors(args))
        raise ValueError(
            f"the tensors of the input hold different numbers of samples: {shapes}. Each needs the batch as its first "
            "dimension; put what all samples share into the network"
        )
    return sizes[0]


def take(args: Any, samples: Tensor | slice) -> Any:
    """Some samples of every tensor that has a batch, in their memory format."""
    # Indexing keeps channels_last, which `index_select` does not.
    return map_tensors(lambda tensor: tensor[samples] if tensor.dim() else tensor, args)


def check_batched(output: Any, samples: int) -> None:
    """Raise ValueError unless every tensor that a network returned has a row for each sample."""
    found = tensors(output)
    for tensor in found:
        if tensor.dim() == 0 or len(tensor) != samples:
            raise ValueError(
                f"the network returned a tensor of shape {list(tensor.shape)} for {samples} samples: what it returns "
                "must have the batch as its first dimension, so that groups of samples can be put together again"
            )
    if not found or opaque(output):
        what = ", ".join(sorted({type(leaf).__name__ for leaf in opaque(output)})) or type(output).__name__
        raise ValueError(f"the network returned {what}, in which no batch can be found; let it return tensors [N, ...]")


def joined(outputs: Sequence[Any], order: Tensor) -> Any:
    """The outputs of several groups as those of one batch; row i of the groups in a row is its row `order[i]`.

    Raises:
        ValueError: the groups returned different structures, or other sizes than that of the batch.
    """
    parts = [tensors(output) for output in outputs]
    shapes = {tuple((tensor.shape[1:], tensor.dtype) for tensor in part) for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            "the network returned tensors of different numbers or shapes for samples at different widths; "
            "what it returns must not depend on the width"
        )
    _check_shared(outputs)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    whole = iter([torch.cat(same)[back.to(same[0].device)] for same in zip(*parts, strict=True)])
    return map_tensors(lambda _: next(whole), outputs[0])


def _check_shared(outputs: Sequence[Any]) -> None:
    """Numbers and other plain values can only be returned for the batch where all groups agree on them."""
    plain = [[leaf for leaf in tree_leaves(output) if isinstance(leaf, PLAIN)] for output in outputs]
    if any(found != plain[0] for found in plain):
        raise ValueError(
            "the network returned a value that is no tensor and differs between groups of samples, such as a mean "
            "loss; let it return a tensor with a row for each sample"
        )
