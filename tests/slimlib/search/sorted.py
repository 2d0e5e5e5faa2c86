"""What the tests of sorted channels share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimlib.search.scores import ChannelScores

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def random_scores(net: nn.Module, seed: int = 0) -> ChannelScores:
    generator = torch.Generator().manual_seed(seed)
    groups = net.slim.layout.groups
    values = tuple(torch.rand(group.units, generator=generator, dtype=torch.double) for group in groups)
    return ChannelScores("random", tuple(group.name for group in groups), values)


def lively(net: nn.Module, seed: int = 1) -> nn.Module:
    """Without the zeros and ones of a fresh network, which would hide a fault."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.1)
    return net


def outputs(net: nn.Module, args: tuple[Any, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(net(*args)) if isinstance(leaf, Tensor)]


def assert_same(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-10) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert float((a.double() - b.double()).abs().max()) <= tolerance * float(b.double().abs().max())


def state(net: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in net.state_dict().items()}
