"""What an operation leaves open and later ones decide: which of the axes that a view made shrinks, and how slices do.

Where `view` cuts 32 channels into 4 x 8, a narrow network has 2 x 8 (heads of attention) or 4 x 4 (a channel
shuffle). The ids vary along both axes until another operation ties them along one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from slimlib.flow.ids import compact, distinct, varying

Canonical = Callable[[Tensor], Tensor]  # ids -> the smallest id that each is tied to
Tie = Callable[[Tensor, Tensor], None]


class Undecided(Protocol):
    """Something left open. Both methods apply what they decide."""

    def decide(self, canonical: Canonical) -> bool:
        """Whether the ties that are known by now decide it."""

    def assume(self, canonical: Canonical) -> None:
        """Decide for what is likeliest."""


@dataclass(frozen=True)
class Cut:
    """One axis of channels became several dimensions: all but one keep their size; likeliest the last shrinks.

    `are_tied`: whether each id is tied to another. Those that are not, as of positions cut off, decide nothing.
    """

    ids: Tensor
    dims: Sequence[int]
    tie: Tie
    are_tied: Callable[[Tensor], Tensor]

    def decide(self, canonical: Canonical) -> bool:
        return len(self._open(canonical)) < 2

    def assume(self, canonical: Canonical) -> None:
        for dim in self._open(canonical)[:-1]:
            self.tie(self.ids, self.ids.narrow(dim, 0, 1))

    def _open(self, canonical: Canonical) -> list[int]:
        ids, tied = distinct(canonical(self.ids)), distinct(self.are_tied(self.ids))
        if bool(tied.all()):
            varied = varying(compact(ids))
            return [dim for dim in self.dims if dim in varied]
        known = torch.where(tied, ids, -1)
        return [dim for dim in self.dims if bool((tied & (ids != known.amax(dim, keepdim=True))).any())]


@dataclass(frozen=True)
class Repeated:
    """Along `dims` `ids` meet what is the same for all other dimensions: a norm or rotation of each head.

    It stays as it is where the channels along `dims` live and die together (whole heads slim): `whole` is called.
    Where they shrink alike for all others it does, too: `alike` is called.
    """

    ids: Tensor
    dims: Sequence[int]
    whole: Callable[[], None]
    alike: Callable[[], None]
    likeliest: Callable[[], None]

    def decide(self, canonical: Canonical) -> bool:
        varied = set(varying(compact(canonical(self.ids))))
        if not varied & set(self.dims):
            self.whole()
        elif varied <= set(self.dims):
            self.alike()
        else:
            return False
        return True

    def assume(self, canonical: Canonical) -> None:
        self.likeliest()


@dataclass(frozen=True)
class Pair:
    """Two whole units that are multiplied, as queries and keys of one head: they are tied unless one of them stays."""

    a: Tensor
    b: Tensor
    tie: Tie

    def decide(self, canonical: Canonical) -> bool:
        self.assume(canonical)
        return True

    def assume(self, canonical: Canonical) -> None:
        self.tie(canonical(self.a), canonical(self.b))


@dataclass(frozen=True)
class Slices:
    """Slices of one axis, each cut by itself: all `edges` together show its parts; `divide` is given their sizes."""

    edges: set[int]
    divide: Callable[[list[int]], None]

    def decide(self, canonical: Canonical) -> bool:
        return False

    def assume(self, canonical: Canonical) -> None:
        self.divide([end - begin for begin, end in pairwise(sorted(self.edges))])


def settle(undecided: list[Undecided], canonical: Canonical) -> None:
    """Decide everything in the list, and empty it: what ties decide first, then the first of the rest, and again."""
    while undecided:
        left = [item for item in undecided if not item.decide(canonical)]
        if len(left) == len(undecided):
            left.pop(0).assume(canonical)
        undecided[:] = left
