"""The operations of a run as they were followed, their places, and what is known of places where slimming fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor, nn

from slimlib.flow.ids import Shadow, WeightRef

SIZED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)

# An operation's place: the class of its module (or the module's name), how many operations of it came before, its name.
Site: TypeAlias = tuple[str, int, str]


class FlowError(ValueError):
    """A network whose channels cannot be followed; the message names the layer and the operation."""


@dataclass
class Choices:
    """What failed attempts to slim have taught, by the places where they failed."""

    views: dict[tuple[str, int], int] = field(default_factory=dict)  # (class, dimensions made of one) -> reading of it
    keep: dict[Site, str] = field(default_factory=dict)  # what enters here stays full
    entering: dict[str, str] = field(default_factory=dict)  # what enters these modules stays full
    modules: dict[str, str] = field(default_factory=dict)  # the layers of these modules stay full


@dataclass
class Step:
    """An operation as it was followed."""

    site: Site
    here: str
    inputs: list[Tensor]
    weights: list[WeightRef]
    outputs: list[Shadow | None]


def class_of_many(module: nn.Module) -> str | None:
    """Name of a module's class where what is true of one module is true of all of the class.

    None for torch's own, of which only attention and transformer layers have sizes written in their forward.
    """
    kind = type(module)
    own = kind.__module__.startswith("torch.") and not isinstance(module, SIZED)
    return None if own else f"{kind.__module__}.{kind.__qualname__}"
