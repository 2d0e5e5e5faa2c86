"""Run plans one after another, and what each shares with the one before it only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.setting import in_eval
from slimlib.search.chain import Chain, Plan, find_chain

KEPT_BYTES = 2**31  # of activations; a boundary that takes more is not kept


class NotRepeated(RuntimeError):
    """A forward did not run the modules of the chain in order, or on other inputs than before."""


class Kept(NamedTuple):
    """An activation, and its version; None: of a copy, since modules write into the activation itself."""

    x: Tensor
    version: int | None

    @property
    def intact(self) -> bool:
        return self.version is None or self.version == self.x._version

    @property
    def passed_on(self) -> Tensor:
        return self.x.clone() if self.version is None else self.x


class Reuse:
    """Takes the place of the modules of a chain: those before a boundary give back what was kept there.

    A plan is run in phases (calibration, scoring), each of several forwards; those of the next plan must be on the
    same inputs, in the same order.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.start = 0
        self._kept: dict[int, dict[str, list[Kept]]] = {}  # boundary -> phase -> activations of each forward
        self._keeping: dict[int, dict[str, list[Kept]]] = {}
        self._written: set[int] = set()  # boundaries of which later modules write into what passes
        self._inputs: dict[str, list[tuple[Tensor, int]]] = {}
        self._phase = ""
        self._forward = self._next = 0
        self._passed: Tensor | None = None

    def schedule(self, plans: Sequence[Plan]) -> Iterator[Plan]:
        """Plans in an order in which they share much; each must be run before the next is asked for."""
        plans = self.chain.in_order(plans)
        shared = [self.chain.shared(a, b) for a, b in pairwise(plans)] + [0]
        self._kept = {}
        for position, plan in enumerate(plans):
            before = shared[position - 1]
            self._drop_what_was_written_to()
            self.start = max((boundary for boundary in self._kept if boundary <= before), default=0)
            wanted = _boundaries_to_keep(shared[position:])
            self._keeping = {boundary: {} for boundary in wanted if boundary > self.start}
            yield plan
            kept = {**self._kept, **self._keeping}
            self._kept = {boundary: kept[boundary] for boundary in wanted if boundary in kept}
        self._kept = {}

    def _drop_what_was_written_to(self) -> None:
        for boundary, phases in list(self._kept.items()):
            if not all(kept.intact for activations in phases.values() for kept in activations):
                self._written.add(boundary)
                del self._kept[boundary]

    @property
    def reused(self) -> set[nn.Module]:
        """The modules that the plan does not run."""
        return {inner for module in self.chain.modules[: self.start] for inner in module.modules()}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Within the block forwards begin where the plan differs from the one before it.

        Raises:
            NotRepeated: the forwards are not those of the plan before.
        """
        self._phase, self._forward, self._next = name, 0, 0
        known = self._inputs.setdefault(name, [])
        for number, module in enumerate(self.chain.modules):
            module.__dict__["forward"] = partial(self._run, number, module.forward)
        try:
            yield
        finally:
            for module in self.chain.modules:
                del module.__dict__["forward"]
        if self._forward != len(known) or self._next:
            raise NotRepeated(f"{self._forward} forwards in {name}, and {len(known)} before")

    def begins_again(self, run: Callable[[], Any]) -> bool:
        """Whether a forward that begins at the last boundary gives what a whole one does."""
        last = len(self.chain.modules)
        self._keeping, self._written = {last: {}}, {last}
        with self.phase("trial"):
            whole = run()
        if last not in self._keeping:  # too large
            return False
        self.start, self._kept, self._keeping = last, self._keeping, {}
        try:
            with self.phase("trial"):
                rest = run()
        except (
            RuntimeError,
            ValueError,
            TypeError,
            IndexError,
        ):  # of another shape, what was left out is used elsewhere
            return False
        pairs = zip(tree_leaves(whole), tree_leaves(rest), strict=True)
        return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)

    def _run(self, number: int, compute: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """What a module of the chain does instead of its forward."""
        if number != self._next or len(args) != 1 or kwargs or (number and args[0] is not self._passed):
            raise NotRepeated(f"module {number} of the chain ran out of turn")
        x: Tensor = args[0]
        if number == 0:
            self._check_input(x)
        if number >= self.start:
            x = compute(x)
        elif number == self.start - 1:
            x = self._kept[self.start][self._phase][self._forward].passed_on
        if number + 1 in self._keeping:
            self._keep(number + 1, x)
        self._passed = x
        self._next += 1
        if self._next == len(self.chain.modules):
            self._forward, self._next = self._forward + 1, 0
        return x

    def _check_input(self, x: Tensor) -> None:
        if torch.is_grad_enabled():
            raise NotRepeated("gradients would reach back into the forward of the plan before")
        known = self._inputs[self._phase]
        if self._forward == len(known):
            if self.start:
                raise NotRepeated("more forwards than before")
            known.append((x, x._version))
        before, version = known[self._forward]
        if before._version != version or (x is not before and not torch.equal(x, before)):
            raise NotRepeated("another input than before")

    def _keep(self, boundary: int, x: Tensor) -> None:
        of_phase = self._keeping[boundary].setdefault(self._phase, [])
        copied = boundary in self._written or x.is_inference()
        of_phase.append(Kept(x.clone(), None) if copied else Kept(x, x._version))
        if sum(kept.x.nbytes for activations in self._keeping[boundary].values() for kept in activations) > KEPT_BYTES:
            del self._keeping[boundary]


def _boundaries_to_keep(shared: Sequence[int]) -> set[int]:
    """Boundaries of a plan at which later ones will begin; shared: what each plan from it on shares with its next."""
    found: set[int] = set()
    least = None
    for boundary in shared:
        least = boundary if least is None else min(least, boundary)
        if not least:
            break
        found.add(least)
    return found


def usable_chain(net: nn.Module, root: nn.Module, x: Tensor) -> Chain | None:
    """The chain of a network as far as nothing else uses what its modules put out; None where there is none.

    root: the slimmable network in `net`, which is set to its full width.
    """
    chain = find_chain(net, root, x)
    with in_eval(net), torch.no_grad(), own_random_numbers():
        while chain.modules:
            trial = Reuse(chain)
            if trial.begins_again(lambda: net(x)):
                return chain
            chain = Chain(root, chain.modules[:-1])
    return None
