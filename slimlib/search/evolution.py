"""Evolution of plans, and random plans, to which every search is to be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from slimlib.search.plan_file import Visited
from slimlib.search.run import Run
from slimlib.search.space import Space

MUTATED = 0.1  # of the groups of a child
ATTEMPTS = 100  # at a plan that was not scored yet


def drawn(run: Run, space: Space, budget: float, evaluations: int, generator: torch.Generator) -> list[Visited]:
    """Random plans within the budget, all that were scored; see `Space.drawn`."""
    population = Population(space, evaluations)
    population.grow(run, evaluations, lambda: space.drawn(budget, generator))
    return population.visited


def evolved(
    run: Run,
    space: Space,
    budget: float,
    evaluations: int,
    size: int,
    generator: torch.Generator,
    first: Sequence[Tensor],
) -> list[Visited]:
    """Plans within the budget, bred from the better ones; all that were scored.

    It begins with plans that are given, as levels, and random ones. Then the better half of a population's worth of
    all plans so far are parents: half of the children are a parent of which a tenth of the groups draw anew, half have
    each group from one of two parents.

    Source: Guo et al. 2020 (single-path one-shot), sec. 3.4, evolution within a limit on multiply-adds.
    """
    population = Population(space, evaluations)
    given = [space.fitted(levels, budget, generator) for levels in first]
    population.grow(run, size, lambda: given.pop(0) if given else space.drawn(budget, generator))
    while population.grow(run, size, partial(_child, population.best(max(2, size // 2)), space, budget, generator)):
        pass
    return population.visited


class Population:
    """Plans that were scored, in order, up to a number of them."""

    def __init__(self, space: Space, most: int) -> None:
        self.space, self.most = space, most
        self.levels: list[Tensor] = []
        self.visited: list[Visited] = []
        self._known: set[tuple[int, ...]] = set()

    def grow(self, run: Run, count: int, make: Callable[[], Tensor]) -> int:
        """Score so many plans more, none of them twice, as long as there are others; returns how many."""
        new: list[Tensor] = []
        attempts = 0
        while len(new) < min(count, self.most - len(self.levels)) and attempts < ATTEMPTS:
            levels = make()
            attempts += 1
            if (key := tuple(levels.tolist())) not in self._known:
                self._known.add(key)
                new.append(levels)
                attempts = 0
        if new:
            self.levels += new
            self.visited += run.visit(self.space, torch.stack(new))
            run.tell(len(self.levels) / self.most, min(v.score for v in self.visited))
        return len(new)

    def best(self, count: int) -> list[Tensor]:
        """Levels of the plans that score best."""
        order = sorted(range(len(self.levels)), key=lambda i: self.visited[i].score)
        return [self.levels[i] for i in order[:count]]


def _child(parents: Sequence[Tensor], space: Space, budget: float, generator: torch.Generator) -> Tensor:
    def draw(shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.double)

    def parent() -> Tensor:
        return parents[int(torch.randint(len(parents), (), generator=generator))]

    if draw(1) < 0.5:
        child = torch.where(draw(space.groups) < 0.5, parent(), parent())
    else:
        anew = draw(space.groups) < MUTATED
        anew[int(torch.randint(space.groups, (), generator=generator))] = True
        child = torch.where(anew, (draw(space.groups) * space.counts).long(), parent())
    return space.fitted(child, budget, generator)
