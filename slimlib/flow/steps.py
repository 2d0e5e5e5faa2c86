"""The operations of a run as they were followed, their places, and what is known of places where slimming fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor, nn

from slimlib.flow.ids import Shadow, WeightRef

SIZED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)

# An operation's place: the class of its module (or the module's name), how many of its name came before, its name.
Site: TypeAlias = tuple[str, int, str]
# One operation of a run: its module, the number of the call, its name, and how many of its name came before.
Moment: TypeAlias = tuple[str, int, str, int]

# The sizes of a module's parameters: what fails in one of a class may work in those of other sizes.
Shapes: TypeAlias = tuple[tuple[int, ...], ...]

SEED = 0  # of whatever forward draws in runs that are compared
COPIES = ("clone", "contiguous", "_to_copy", "lift_fresh")  # some are made at some sizes only
VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_alias")


class FlowError(ValueError):
    """A network whose channels cannot be followed; the message names the layer and the operation."""


# Where an axis of channels is known in a module: an argument, parameter or operation, and a dimension of it.
Place: TypeAlias = tuple[object, ...]


@dataclass(frozen=True)
class Counted:
    """The channels whose number an attribute holds: in modules of a class, along an axis at one of these places."""

    known_in: str
    places: frozenset[Place]


@dataclass(frozen=True)
class Agreement:
    """In modules of a class, groups that shrink in proportion: of the operation at a place and what enters, or all.

    joined: those side by side on one axis, as the parts of a split, do so together.
    """

    kind: str
    site: Site | None
    every: bool
    joined: bool = False


Kept: TypeAlias = dict[tuple[Site, Shapes | None], str]  # place, in modules of these sizes or (None) in all -> why


@dataclass
class Choices:
    """What failed attempts to slim have taught, by the places where they failed."""

    views: dict[tuple[str, int], int] = field(default_factory=dict)  # (class, dimensions made of one) -> reading of it
    tried: set[tuple[str, int, int]] = field(default_factory=set)  # and all readings that were weighed
    copied: set[str] = field(default_factory=set)  # parameters that must lie together in memory, also a part of them
    proportional: set[Site] = field(default_factory=set)  # where unequal parts are cut that shrink in proportion
    whole: set[Site] = field(default_factory=set)  # where a layer acts on heads that slim whole, or a split cuts them
    weighed: set[Site] = field(default_factory=set)  # and where that, or that heads shrink, was chosen
    scaled: dict[Site, set[Site]] = field(default_factory=dict)  # where numbers were wrong -> splits read so for it
    parts: dict[Site, str] = field(default_factory=dict)  # what is cut out here stays, the rest slims
    keep: Kept = field(default_factory=dict)  # what enters here stays full
    weights: Kept = field(default_factory=dict)  # the weights that are used here stay full
    entering: dict[str, str] = field(default_factory=dict)  # what enters these modules stays full
    modules: dict[str, str] = field(default_factory=dict)  # the layers of these modules stay full
    numbers: dict[tuple[str, str], Counted] = field(default_factory=dict)  # (class, attribute) -> what it counts
    disproved: dict[tuple[str, str], frozenset[Place]] = field(default_factory=dict)  # and what it does not
    sizes: set[tuple[str, str]] = field(default_factory=set)  # (layer, its size) that forward computes with: it stays
    agree: list[Agreement] = field(default_factory=list)
    numbers_matter: bool = False  # forward looks at them, so that quick runs compute all products
    partly: set[str] = field(default_factory=set, compare=False)  # classes of which more numbers may be needed
    instead: dict[str, Choices] = field(default_factory=dict, compare=False)  # and without these numbers, if in vain
    refused: set[tuple[str, Shapes]] = field(default_factory=set)  # classes, of modules of these sizes, where it was


@dataclass
class Step:
    """An operation as it was followed."""

    site: Site
    moment: Moment
    kind: str  # of its module
    settings: tuple[Any, ...]  # its arguments besides tensors
    inputs: list[Tensor]
    weights: list[WeightRef]
    outputs: list[Shadow | None]

    @property
    def module(self) -> str:
        """The name of the module that ran it."""
        return self.moment[0]

    @property
    def here(self) -> str:
        """The operation and the module, for messages."""
        return place(self.site[2], self.module, self.kind)

    @property
    def copies(self) -> bool:
        """Whether it may be missing in a run of other sizes."""
        return self.site[2] in COPIES


def first_line(error: Exception) -> str:
    """What an error says, for a reason; its class where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:120] if text else type(error).__name__


def place(operation: str, module: str, kind: str) -> str:
    """An operation and its module, as messages show them."""
    return f"{operation} in {place_of(module, kind)}"


def place_of(module: str, kind: str) -> str:
    """A module, as messages show it."""
    return f"'{module}' ({kind})" if module else "the network's own forward"


def plain_name(operation: str) -> str:
    """The name of an operation, the same whether it copies or not, which depends on sizes."""
    return "view" if operation in VIEWS else operation


def class_of_many(module: nn.Module) -> str | None:
    """Name of a module's class where what is true of one module is true of all of the class.

    None for torch's own, of which only attention and transformer layers have sizes written in their forward.
    """
    kind = type(module)
    own = kind.__module__.startswith("torch.") and not isinstance(module, SIZED)
    return None if own else f"{kind.__module__}.{kind.__qualname__}"


def class_or_name(net: nn.Module, name: str) -> str:
    """What a module has in common with those that are like it: its class, or else its name."""
    return class_of_many(net.get_submodule(name)) or f"'{name}'"


def alike(net: nn.Module, name: str) -> list[str]:
    """The modules of the same class, for what is true of one of them is true of all; itself if it is torch's own."""
    kind = class_of_many(net.get_submodule(name))
    return [n for n, module in net.named_modules() if class_of_many(module) == kind] if kind and name else [name]


def shapes_of(module: nn.Module) -> Shapes:
    return tuple(tuple(parameter.shape) for parameter in module.parameters())


def is_inside(name: str, outer: str) -> bool:
    """Whether a module or parameter is in a module, or is that."""
    return name == outer or name.startswith(f"{outer}.") or not outer


def upwards(name: str) -> Iterator[str]:
    """A module's name, and those of the modules it is in."""
    while name:
        yield name
        name = name.rpartition(".")[0]
    yield ""
