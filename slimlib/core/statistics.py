"""What a BatchNorm keeps for each width: statistics, and in a switchable network an affine.

Statistics depend on everything upstream, so they belong to the channel numbers of the whole
network. They live in buffers (and, switchable, parameters) named after those numbers, so that
`state_dict`, `.to()` and checkpoints carry them; the full width keeps the plain names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

STATISTICS = ("running_mean", "running_var")
AFFINE = ("weight", "bias")
GRAMMAR = re.compile(rf"({'|'.join((*AFFINE, *STATISTICS))})_at_(\d+(?:_\d+)*)")


@dataclass(frozen=True)
class OfWidth:
    """A tensor of a BatchNorm that belongs to some channel numbers of the network alone.

    Its text is its name in the module, for example `running_mean_at_16_32`.

    Attributes:
        key: its name at full width, of `STATISTICS` or `AFFINE`.
        channels: units of each group of the network.
    """

    key: str
    channels: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.key}_at_{'_'.join(map(str, self.channels))}"

    @staticmethod
    def parse(name: str) -> OfWidth | None:
        """What a parameter or buffer of this name is; None: it belongs to no width alone."""
        match = GRAMMAR.fullmatch(name)
        return None if match is None else OfWidth(match[1], tuple(map(int, match[2].split("_"))))


def is_private(name: str) -> bool:
    """Whether a parameter or buffer belongs to one other width only."""
    return OfWidth.parse(name) is not None


def drop_buffer(layer: nn.Module, name: str) -> None:
    layer.__dict__.pop(name, None)
    layer._buffers.pop(name, None)


def tracks(module: nn.Module) -> bool:
    """Whether this is a BatchNorm with running statistics, the only one that depends on calibration."""
    return isinstance(module, _BatchNorm) and module._buffers.get("running_mean") is not None
