"""Ties between channel ids: which channels live or die together, and which must stay, and why."""

from __future__ import annotations

import torch
from torch import Tensor

from slimlib.flow.ids import AtomKey, Shadow, WeightRef, distinct
from slimlib.flow.steps import Moment, Site
from slimlib.flow.undecided import Undecided, settle

FEW = 4096  # pairs that may be kept more than once


class Ties:
    """Collects ties while a network runs.

    Ids count up from 1; `labels` maps each id to the smallest id that it is tied to. `atoms` are the ids of the
    parameters, `producers` the weight axes that hand out channels, `numbers` the ids of the channels whose number an
    attribute of a module holds: (module, attribute) -> ids.
    """

    def __init__(self) -> None:
        self.count = 1
        self.atoms: dict[AtomKey, Tensor] = {}
        self.producers: dict[AtomKey, None] = {}
        self.numbers: dict[tuple[str, str], Tensor] = {}
        self.reasons: dict[int, str] = {}
        self.blocked: dict[str, str] = {}  # layers that an operation without a rule computes -> reason
        self.statistics: dict[tuple[str, str], list[Tensor]] = {}  # (module, operation) -> what it is computed from
        self.met: set[str] = set()  # parameters that an operation had among its arguments
        self.like: dict[str, str] = {}  # a module that never ran -> the one beside it that it follows
        self.caches: set[str] = set()  # attributes in which forward keeps what it made of channels
        self.stays: dict[str, int] = {}
        self.heads: list[Tensor] = []  # ids of what a batched product has one of for each of its batch
        self.divided: list[list[Tensor]] = []  # ids of the parts of an axis that shrink each by itself
        self.shared: set[Site] = set()  # operations of which one weight acts on each of several heads
        self.unequal: set[Moment] = set()  # operations that divide an axis so
        self.inner: set[AtomKey] = set()  # axes of weights that lie within the channels of another
        self.undecided: list[Undecided] = []
        self.repeated: list[Tensor] = []  # ids of what stays, and meets units each as a whole
        self._labels = torch.zeros(1, dtype=torch.long)
        self._pending: list[Tensor] = []

    def fresh(self, key: AtomKey, size: int) -> Tensor:
        """The ids of a parameter's channels; new ones at the first call."""
        if key not in self.atoms:
            self.atoms[key] = torch.arange(self.count, self.count + size)
            self.count += size
        return self.atoms[key]

    def stay(self, why: str) -> int:
        """An id that must stay."""
        if why not in self.stays:
            self.stays[why] = self.count
            self.reasons[self.count] = why
            self.count += 1
        return self.stays[why]

    def tie(self, a: Tensor, b: Tensor, here: str) -> None:
        """The ids of a and b, element by element, live and die together; 0 ties nothing."""
        if not (a.numel() and b.numel()):
            a, b = distinct(a), distinct(b)
        if a.shape != b.shape or a.dim() > 1:
            a, b = torch.broadcast_tensors(a, b)
            for dim in range(a.dim()):
                if a.shape[dim] > 1 and a.stride(dim) == 0 == b.stride(dim):
                    a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
            a, b = a.reshape(-1), b.reshape(-1)
        use = (a != b) & (a > 0) & (b > 0)
        if not bool(use.any()):
            return
        pairs = torch.stack([a[use], b[use]])
        if pairs.shape[1] > FEW:
            key = torch.unique(pairs[0] << 32 | pairs[1])  # one integer a pair: unique over rows is 20 times slower
            pairs = torch.stack([key >> 32, key & 0xFFFFFFFF])
        self._pending.append(pairs)

    def fix(self, ids: Tensor, why: str) -> None:
        """These ids must stay."""
        for channel in torch.unique(ids).tolist():
            if channel > 0:
                self.reasons.setdefault(channel, why)

    def leave_open(self, item: Undecided) -> None:
        """Decide it when later operations have added their ties."""
        self.undecided.append(item)

    def settle(self) -> None:
        """Decide what was left open."""
        reasons = torch.tensor(list(self.reasons), dtype=torch.long)

        def canonical(ids: Tensor) -> Tensor:  # what stays need not live and die together: it is 0
            labels = self.labels()
            stays = torch.zeros(len(labels), dtype=torch.bool)
            stays[labels[reasons]] = True
            found = labels[distinct(ids)]
            return torch.where(stays[found], 0, found).expand(ids.shape)

        settle(self.undecided, canonical)

    def keep_apart(self, vector: Tensor, why: str) -> None:
        """A vector meets units each as a whole: it stays, and they may slim."""
        self.fix(vector, why)
        self.repeated.append(vector.reshape(-1))

    def fix_all(self, shadow: Shadow, why: str) -> None:
        """All channels of a tensor must stay."""
        for ids in [axis.ids for axis in shadow.axes] if isinstance(shadow, WeightRef) else [distinct(shadow)]:
            self.fix(ids, why)

    def labels(self) -> Tensor:
        """The smallest id of every id's component."""
        known = len(self._labels)
        if known < self.count:
            self._labels = torch.cat([self._labels, torch.arange(known, self.count)])
        if self._pending:
            met, pairs = torch.unique(self._labels[torch.cat(self._pending, 1)], return_inverse=True)
            joined = torch.arange(self.count)
            joined[met] = met[_components(pairs, len(met))]
            self._labels, self._pending = joined[self._labels], []
        return self._labels

    def canonical(self, ids: Tensor) -> Tensor:
        """The smallest id that each is tied to."""
        return self.labels()[distinct(ids)].expand(ids.shape)

    def are_tied(self, ids: Tensor) -> Tensor:
        """Whether each is tied to another."""
        labels = self.labels()
        return (torch.bincount(labels)[labels[distinct(ids)]] > 1).expand(ids.shape)

    def fixed(self) -> dict[int, str]:
        """Label of every component that must stay -> the first reason."""
        labels = self.labels()
        found: dict[int, str] = {}
        for channel, why in self.reasons.items():
            found.setdefault(int(labels[channel]), why)
        return found


def _components(pairs: Tensor, count: int) -> Tensor:
    """pairs: [2, P] ids; the smallest id of each id's connected component, [count]."""
    a, b = pairs
    labels = torch.arange(count)
    while len(a):
        low = torch.minimum(a, b)
        labels.scatter_reduce_(0, torch.cat([a, b]), low.repeat(2), "amin")
        while not torch.equal(shorter := labels[labels], labels):
            labels = shorter
        a, b = labels[a], labels[b]
        apart = a != b
        a, b = a[apart], b[apart]
    return labels
