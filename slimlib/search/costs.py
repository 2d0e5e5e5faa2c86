"""Costs of plans by arithmetic: what each product of the network costs, as a function of channel numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slimlib.core.layout import Layout, axis_size
from slimlib.core.setting import slimming_of
from slimlib.core.statistics import is_private
from slimlib.core.width import WidthPlan, check_is
from slimlib.serving.cost import Counted, count_operations

POOL, PROBES = 256, 40  # random plans on which axes are told apart, and how many of them may be counted


class PlanCosts(NamedTuple):
    """What plans cost: `macs` [plans], multiply-adds, and `params` [plans], parameters in use."""

    macs: Tensor
    params: Tensor


def plan_costs(net: nn.Module, example: Any) -> CostsByArithmetic:
    """A function that computes what plans of a network cost, many thousands a second.

    A few plans are counted by `slimlib.cost`. They show how the cost of each layer depends on channel numbers, so that
    the results of the function equal those of `slimlib.cost`.

    Args:
        net: a slimmable network; it is not changed.
        example: an input [N, ...] (or a tuple of arguments) of the size to count for.

    Returns:
        A function of plans, a list of `WidthPlan` or channel numbers [plans, groups], to `PlanCosts`.

    Raises:
        ValueError: the cost of an operation is no product of the channel numbers of at most two axes, or `slimlib.cost`
            refuses the network.
    """
    slimming = slimming_of(net)
    if slimming.norm.has_private_parameters:
        raise ValueError(
            "a network with norm='switchable' computes only at its switches; to count the cost of other plans, "
            "convert the network with norm='universal'"
        )
    axes = Axes(slimming.layout)
    products = _Products(net, example, axes)
    macs: dict[Term, Fraction] = {}
    for term, coefficient in products.terms():
        macs[term] = macs.get(term, Fraction(0)) + coefficient
    found = CostsByArithmetic(slimming.layout, axes, macs, _parameters(slimming.net(), slimming.layout, axes))
    products.verify(found)
    return found


Term = tuple[int, ...]  # numbers of the axes whose sizes are multiplied


class CostsByArithmetic:
    """Sums of products of axis sizes; see `plan_costs`."""

    def __init__(
        self, layout: Layout, axes: Axes, macs: Mapping[Term, Fraction], params: Mapping[Term, Fraction]
    ) -> None:
        self.layout, self._axes, self._macs, self._params = layout, axes, dict(macs), dict(params)

    def __call__(self, plans: Sequence[WidthPlan] | Tensor) -> PlanCosts:
        """What each plan costs.

        Raises:
            ValueError: a plan that does not fit the groups of the network.
        """
        channels = as_channels(self.layout, plans)
        sizes = self._axes.sizes(channels)
        return PlanCosts(_evaluated(self._macs, sizes), _evaluated(self._params, sizes))


def as_channels(layout: Layout, plans: Sequence[WidthPlan] | Tensor) -> Tensor:
    """Plans as channel numbers [plans, groups].

    Raises:
        ValueError: one that does not fit the groups of the network.
    """
    if not isinstance(plans, Tensor):
        check_is(Iterable, "a list of plans", plans=plans)
        plans = [getattr(plan, "plan", plan) for plan in plans]
        for number, plan in enumerate(plans):
            if not isinstance(plan, WidthPlan):  # there may be many thousands
                check_is(WidthPlan, "a plan", **{f"plans[{number}]": plan})
        numbers = [plan.channels for plan in plans]
        if other := next((len(each) for each in numbers if len(each) != len(layout.groups)), 0):
            raise ValueError(f"a WidthPlan has {other} numbers, and this network {len(layout.groups)} groups")
        plans = torch.tensor(numbers, dtype=torch.long).view(len(numbers), len(layout.groups))
    channels = plans
    if channels.dim() != 2 or channels.shape[1] != len(layout.groups) or channels.is_floating_point():
        raise ValueError(
            f"channel numbers of plans are whole numbers [plans, {len(layout.groups)}], a column for each group of "
            f"this network, not {list(channels.shape)} of {channels.dtype}"
        )
    wrong = ((channels < 1) | (channels > torch.tensor(layout.full))).nonzero()
    if len(wrong):
        row, index = wrong[0].tolist()
        group = layout.groups[index]
        raise ValueError(
            f"a WidthPlan asks for {channels[row, index]} channels of '{group.name}'; possible: 1 to {group.units}"
        )
    return channels


def _evaluated(terms: Mapping[Term, Fraction], sizes: Tensor) -> Tensor:
    total = torch.zeros(len(sizes), dtype=torch.long)
    for axes, coefficient in terms.items():
        product = torch.ones_like(total)
        for axis in axes:
            product = product * sizes[:, axis]
        total += product * coefficient.numerator // coefficient.denominator
    return total


class Axes:
    """All distinct axes of a layout, and their active sizes at any plans."""

    def __init__(self, layout: Layout) -> None:
        axes = [axis for dims in layout.axes.values() for axis in dims.values()]
        axes += [axis for found in layout.numbers.values() for axis in found.values()]
        axes += layout.norm_inputs.values()
        self.layout = layout
        self.number = {axis: number for number, axis in enumerate(dict.fromkeys(axes))}
        self.full = [axis_size(axis, layout.full) for axis in self.number]
        pieces = dict.fromkeys((s.group, s.start, s.units) for axis in self.number for s in axis if s.group is not None)
        place = {piece: row for row, piece in enumerate(pieces)}
        self._group, self._start, self._units = torch.tensor(list(pieces)).view(-1, 3).unbind(1)
        self._always = torch.zeros(len(self.number), dtype=torch.double)
        self._channels = torch.zeros(len(pieces), len(self.number), dtype=torch.double)
        for axis, number in self.number.items():
            for s in axis:
                if s.group is None:
                    self._always[number] += s.size
                else:
                    self._channels[place[s.group, s.start, s.units], number] += s.channels

    def groups(self, number: int) -> set[int]:
        """The groups on an axis, by its number."""
        return {s.group for s in list(self.number)[number] if s.group is not None}

    def sizes(self, channels: Tensor) -> Tensor:
        """Active sizes [plans, axes] at channel numbers [plans, groups]."""
        active = (channels[:, self._group] - self._start).clamp(min=0).minimum(self._units)
        return (self._always + active.double() @ self._channels).long()  # whole numbers far below 2 ** 53: exact


def _parameters(net: nn.Module, layout: Layout, axes: Axes) -> dict[Term, Fraction]:
    """Active elements of all parameters; one that several modules share counts once."""
    terms: dict[Term, Fraction] = {}
    for name, parameter in net.named_parameters():
        if is_private(name.rpartition(".")[2]):
            continue
        term = tuple(sorted(axes.number[axis] for axis in layout.axes.get(name, {}).values()))
        each = Fraction(parameter.numel(), prod(axes.full[axis] for axis in term))
        terms[term] = terms.get(term, Fraction(0)) + each
    return terms


@dataclass
class _Candidates:
    """Terms that differ as functions of the plan, and their sizes over the full ones on the pool of plans."""

    terms: list[Term]
    shares: Tensor  # [terms, pool]


class _Products:
    """The products of a network, counted at some plans, and the term that each is a multiple of."""

    def __init__(self, net: nn.Module, example: Any, axes: Axes) -> None:
        self.net, self.example, self.axes = net, example, axes
        self.layout = axes.layout
        generator = torch.Generator().manual_seed(0)
        full = torch.tensor(self.layout.full)
        drawn = torch.rand(POOL, len(full), generator=generator, dtype=torch.double)
        self.pool = torch.cat([full[None], 1 + (drawn * full).long()])
        self.candidates = _distinct_terms(axes, self.pool)
        self.counted: dict[int, Counted] = {}  # row of the pool -> what was counted
        for row in (0, 1, 2):
            self._count(row)

    def terms(self) -> Iterator[tuple[Term, Fraction]]:
        """Of each product the term, and what it is multiplied by."""
        for position, (name, macs) in enumerate(self.counted[0].products):
            term = self._term(position, name)
            yield term, Fraction(macs, prod(self.axes.full[axis] for axis in term))

    def verify(self, found: CostsByArithmetic) -> None:
        """Raise ValueError where another plan costs something else."""
        row = next(row for row in range(len(self.pool)) if row not in self.counted)
        self._count(row)
        rows = sorted(self.counted)
        costs = found(self.pool[rows])
        for row, macs, params in zip(rows, costs.macs.tolist(), costs.params.tolist(), strict=True):
            counted = self.counted[row]
            if (sum(m for _, m in counted.products), counted.params) != (macs, params):
                raise ValueError(
                    f"the cost of this {type(self.net).__name__} does not follow from its channel numbers: "
                    f"{self.pool[row].tolist()} cost {counted.products}; count plans one by one with slimlib.cost"
                )

    def _term(self, position: int, name: str) -> Term:
        """The one term that fits a product; where several fit, a plan that tells them apart is counted, too."""
        while True:
            rows = sorted(self.counted)
            macs = torch.tensor([self.counted[row].products[position][1] for row in rows], dtype=torch.double)
            shares = self.candidates.shares[:, rows]
            fits = ((shares * macs[0] - macs).abs() <= 1e-9 * macs[0]).all(1).nonzero()[:, 0]
            if not len(fits):
                raise ValueError(
                    f"the multiply-adds of product {position + 1} of this {type(self.net).__name__} ({name}) are no "
                    "product of the sizes of two axes of channels; count plans one by one with slimlib.cost"
                )
            if len(fits) == 1:
                return self.candidates.terms[int(fits[0])]
            apart = (self.candidates.shares[fits[0]] - self.candidates.shares[fits[1]]).abs()
            self._count(int(apart.argmax()))

    def _count(self, row: int) -> None:
        plan = WidthPlan(self.pool[row].tolist())
        counted = count_operations(self.net, self.example, plan)
        # A product of a slice may have another name: torch takes bmm for some mm of a slice.
        if self.counted and len(counted.products) != len(self.counted[0].products):
            raise ValueError(
                f"this {type(self.net).__name__} computes {len(counted.products)} products at {plan}, and "
                f"{len(self.counted[0].products)} at full width: its cost does not follow from channel numbers; count "
                "plans one by one with slimlib.cost"
            )
        self.counted[row] = counted


def _distinct_terms(axes: Axes, pool: Tensor) -> _Candidates:
    """No axis, each axis and each pair, without those that are multiples of another."""
    sizes = axes.sizes(pool).double()
    single = _without_multiples([()] + [(number,) for number in range(len(axes.full))], sizes)
    pairs = [a + b for a, b in combinations_with_replacement(single, 2)]
    terms = _without_multiples(sorted(set(pairs), key=len), sizes)
    return _Candidates(terms, _shares(terms, sizes))


def _without_multiples(terms: list[Term], sizes: Tensor) -> list[Term]:
    known: dict[tuple[float, ...], Term] = {}
    for term, share in zip(terms, _shares(terms, sizes), strict=True):
        known.setdefault(tuple(share.tolist()), term)
    return list(known.values())


def _shares(terms: Sequence[Term], sizes: Tensor) -> Tensor:
    """Sizes over the full ones [terms, pool]; the first plan of the pool is the full one."""
    products = torch.stack([sizes[:, list(term)].prod(1) for term in terms])
    return products / products[:, :1]
