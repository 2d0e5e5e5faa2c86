"""Ties that are known, for the runs that check a layout."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from slimlib.core.layout import Axis, Layout, axis_index
from slimlib.flow.ids import AtomKey
from slimlib.flow.ties import Ties
from slimlib.flow.undecided import Undecided


class Mixture(Exception):
    """Channels meet that the layout keeps apart."""


class KnownTies(Ties):
    """A run with known ties checks that only channels of one unit meet; it learns nothing new.

    All ids in it are labels, the smallest id of each unit.

    Attributes:
        allows_all: nothing is checked but sizes; what the numbers of the run prove instead.
    """

    allows_all = False

    def __init__(self, known: Ties, atoms: Mapping[AtomKey, Tensor], slims: Tensor) -> None:
        super().__init__()
        labels = known.labels()
        self.known, self._slims, self._labels = known, slims, torch.arange(len(labels))
        self.atoms, self.inner, self.unequal = dict(atoms), set(known.inner), set(known.unequal)
        elements = {name for name, dim in atoms if dim is None}
        for key in [key for key in atoms if key[0] in elements and isinstance(key[1], int)]:
            if not bool(known.are_tied(known.atoms[key]).any()):  # the elements of a table were followed, not its axes
                del self.atoms[key]
        self._repeated = torch.zeros(len(labels), dtype=torch.bool)
        self._repeated[labels[torch.cat([torch.zeros(0, dtype=torch.long), *known.repeated])]] = True

    def fresh(self, key: AtomKey, size: int) -> Tensor:
        ids = self.atoms.get(key)
        if ids is None:  # a layer that only this run met
            return torch.zeros(size, dtype=torch.long)
        if len(ids) != size:
            raise Mixture(f"'{key[0]}' has {size} channels where {len(ids)} are expected")
        return ids

    def stay(self, why: str) -> int:
        return int(self.known.labels()[self.known.stays.get(why, 0)])

    def tie(self, a: Tensor, b: Tensor, here: str) -> None:
        a, b = torch.broadcast_tensors(a, b)
        if not self.allows_all and not self.agree(a, b):
            raise Mixture("channels of different layers or positions meet")

    def agree(self, a: Tensor, b: Tensor) -> bool:
        """Whether ids of one shape may meet: of one unit, what stays, or with what is repeated for whole units."""
        if torch.equal(a, b):
            return True
        stay = ~(self._slims[a] | self._slims[b])
        return bool(((a == 0) | (b == 0) | (a == b) | stay | self._repeated[a] | self._repeated[b]).all())

    def leave_open(self, item: Undecided) -> None:
        pass

    def fix(self, ids: Tensor, why: str) -> None:
        pass

    def labels(self) -> Tensor:
        return self._labels


def active_ties(
    known: Ties,
    atoms: Mapping[AtomKey, Tensor],
    layout: Layout,
    channels: tuple[int, ...],
    shapes: Mapping[str, torch.Size],
    slims: Tensor,
) -> KnownTies:
    """The ties as the sliced network sees them: only the ids of the active channels; `atoms`: as units."""

    def index(axis: Axis, ids: Tensor, dim: int) -> Tensor:
        found = axis_index(axis, channels)
        return ids.narrow(dim, 0, found) if isinstance(found, int) else ids.index_select(dim, found)

    active: dict[AtomKey, Tensor] = {}
    for (name, dim), ids in atoms.items():
        axes = layout.axes.get(name, {})
        if dim == "input":
            active[name, dim] = index(layout.norm_inputs[name], ids, 0) if name in layout.norm_inputs else ids
        elif isinstance(dim, int):
            active[name, dim] = index(axes[dim], ids, 0) if dim in axes else ids
        else:
            elements = ids.view(shapes[name])
            for d, axis in axes.items():
                elements = index(axis, elements, d)
            active[name, dim] = elements.reshape(-1)
    return KnownTies(known, active, slims)
