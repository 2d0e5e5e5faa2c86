"""Runs that check a layout: the sliced network step by step, and the full network with the other channels masked."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._mode_utils import no_dispatch

from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.width import Width
from slimlib.flow.functions import RECURRENT
from slimlib.flow.ids import Shadow, WeightRef, compact, distinct, tracked, untracked, varies, varying
from slimlib.flow.operations import Operation, recurrent
from slimlib.flow.operations.operation import DROPOUTS
from slimlib.flow.operations.reductions import STATISTICS, dimensions
from slimlib.flow.proof.known_ties import KnownTies
from slimlib.flow.steps import SEED, Choices, Moment, Site, Step
from slimlib.flow.ties import Ties
from slimlib.flow.trace import Trace

NOISE = {
    "bernoulli", "normal", "uniform", "rand", "randn", "rand_like", "randn_like", "exponential", "empty", "empty_like",
    "new_empty", "empty_strided", "empty_permuted",
}  # fmt: skip
"""Operations whose results are arbitrary numbers."""
PRODUCTS = {
    "convolution": (0, 1), "linear": (0,), "bilinear": (0, 1), "mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1),
    "baddbmm": (1, 2), "mv": (0, 1), "dot": (0, 1), "vdot": (0, 1), "_sparse_mm": (0, 1), "_sparse_addmm": (1, 2),
    "cdist": (0, 1), "einsum": (1, 2), "_grouped_mm": (0,), "transformers.grouped_mm_fallback": (0,),
}  # fmt: skip
"""Operation -> the arguments whose channels are added up in it."""
COUNTS = {
    "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "index",
    "index_select", "split_with_sizes",
}  # fmt: skip
"""Operations that give as many elements as there are of some kind, or are asked for."""

SCALING, POWERS = ("mul", "div"), (1, 0.5, -0.5, -1)  # of how many channels there are, to make a mean of a sum, say
LARGEST = 1e6  # number that is summed up as it is
Record: TypeAlias = Callable[[Shadow | None, Any], Any]


class Replay(Trace):
    """A run without random numbers, which depend on the width; it can keep what every operation gave."""

    def __init__(
        self, net: nn.Module, ties: Ties, choices: Choices, origin: nn.Module, record: Record | None = None
    ) -> None:
        super().__init__(net, ties, choices, origin)
        self.record, self.limit = record, sys.maxsize  # operations, after which the run is stopped
        self.at: tuple[bool, Width] = (False, 1.0)  # training or eval mode, and the width
        self.results: list[list[Any]] = []  # what `record` makes of the ids and the results of every operation

    def follow(self, args: tuple[Any, ...]) -> list[Tensor]:
        """With the same whole numbers, where forward draws any, as in the runs that this one is compared with."""
        with own_random_numbers(SEED):
            return super().follow(args)

    def compute(self, op: Operation) -> Any:
        if op.name in DROPOUTS:
            return op.args[0]
        if op.name == "native_dropout":
            return op.args[0].clone(), torch.ones_like(op.args[0], dtype=torch.bool)
        if op.name in RECURRENT:
            return op.func(*recurrent.replayed(op, self.active_part))
        out = self.exact(op)
        return out.fill_(0.5) if op.name in NOISE else out

    def exact(self, op: Operation) -> Any:
        return super().compute(op)

    def active_part(self, x: Any, ids: Any) -> Any:
        """What of `x` is computed with: all of it."""
        return x

    def finished(self, op: Operation, outs: list[Any]) -> None:
        if self.record is not None:
            shadows = self.log[-1].outputs
            self.results.append([self.record(ids, o) for ids, o in zip(shadows, outs, strict=False)])
        if len(self.log) >= self.limit:
            raise Beyond


class Beyond(Exception):
    """A run went on for as long as it is looked at."""


class Misfit(Exception):
    """The sliced network does something else than the layout says."""


class Sliced(Replay):
    """The sliced network: every result must have the channels that are active in the full network's."""

    def __init__(
        self,
        net: nn.Module,
        ties: KnownTies,
        choices: Choices,
        origin: nn.Module,
        expected: Mapping[Moment, Step],
        active: Tensor,
        scales: set[Site],
        record: Record | None = None,
    ) -> None:
        super().__init__(net, ties, choices, origin, record)
        self.known, self.expected, self.active, self.scales = ties, expected, active, scales
        self.counts: set[tuple[int, int]] = set()  # sizes that depend on numbers, here and in the full network

    @property
    def step_of_full(self) -> Step | None:
        """The operation of the full network that is the one which runs now."""
        return self.expected.get(self.context.moment)

    def finished(self, op: Operation, outs: list[Any]) -> None:
        super().finished(op, outs)
        step = self.step_of_full
        if step is None:
            return
        if op.name in SCALING and op.settings != step.settings:
            self.scales.add(step.site)
        for ids, got, out in zip(step.outputs, self.log[-1].outputs, outs, strict=False):
            if not isinstance(ids, Tensor) or not isinstance(out, Tensor):
                continue
            sizes = set(zip(out.shape, ids.shape, strict=False))
            if op.name in COUNTS:
                self.counts |= sizes
            if not tracked(ids):
                self.context.shadows[out] = untracked(out.shape)
                continue
            picks = active_positions(ids, self.active)
            if picks is None:
                continue
            larger = out.dim() != ids.dim() or any(own > full for own, full in sizes - self.counts)
            shape = list(ids.shape if larger else out.shape)
            for dim, index in picks:
                shape[dim] = len(index)
            if list(out.shape) != shape:  # what varies along no channels may be repeated for each of them
                self.log.pop()
                raise Misfit(f"gives {list(out.shape)} where {shape} is expected")
            wanted = select(distinct(ids), picks)
            if isinstance(got, Tensor):
                if not self.known.agree(*torch.broadcast_tensors(distinct(got), wanted)):
                    self.log.pop()
                    raise Misfit("gives other channels than expected")
                self.context.shadows[out] = wanted.expand(out.shape)


class Masked(Replay):
    """The full network, where products, norms and statistics see only the active channels."""

    def __init__(
        self,
        net: nn.Module,
        ties: KnownTies,
        choices: Choices,
        origin: nn.Module,
        active: Tensor,
        scales: set[Site],
        record: Record | None = None,
    ) -> None:
        super().__init__(net, ties, choices, origin, record)
        self.active, self.scales, self.computes = active, scales, True
        self.statistics: dict[str, list[Tensor]] = {}  # module -> units of which it makes statistics
        for (module, _), found in ties.known.statistics.items():
            self.statistics.setdefault(module, []).extend(ties.known.labels()[ids] for ids in found)

    def exact(self, op: Operation) -> Any:
        args = list(op.args)
        factors = () if self._select_active(op, args) else PRODUCTS.get(op.name, ())
        for position in factors:
            args[position] = self.active_part(args[position], op.ids[position])
        weights = [position for position in factors if isinstance(op.ids[position], WeightRef)]
        if len(weights) < len(factors) and op.name != "cdist":
            weights = []  # the other factor is zero for what is not active
        for position in weights:
            args[position] = self._mask_axes(args[position], op.ids[position], range(args[position].dim()))
        if op.name == "_weight_norm_interface":
            dim = op.argument(2, "dim", 0)
            args[0] = self._mask_axes(args[0], op.ids[0], [d for d in range(args[0].dim()) if d != dim])
        if _over_channels(op):
            return self._norm(op)
        if op.name in SCALING and self.context.site in self.scales:
            args[1] = self._scale(op)
        if op.name not in STATISTICS or any(isinstance(x, Tensor) for x in args[1:]):
            return op.func(*args, **op.kwargs)
        args[0] = self._within(args[0], op.ids[0], dimensions(op, args[0].dim()))
        return op.func(*args, **op.kwargs)

    def _select_active(self, op: Operation, args: list[Any]) -> bool:
        """Multiply with the active channels alone, where they lie along one axis of both factors."""
        if op.name not in {"linear", "convolution"} or not isinstance(op.ids[1], WeightRef):
            return False
        ids, dim = op.ids[0], -1 if op.name == "linear" else 1
        if not isinstance(ids, Tensor) or (op.name == "convolution" and args[8] > 1) or ids.dim() < 2:
            return False
        if varying(ids) != [dim % ids.dim()]:
            return False
        index = self.active[distinct(ids)].reshape(-1).nonzero()[:, 0]
        if len(index):
            given = 0 if op.name == "convolution" and args[6] else 1  # the axis of the weight; transposed
            args[0], args[1] = _part(args[0], dim, index), _part(args[1], given, index)
        return bool(len(index))

    def attention_scale(self, query: Tensor) -> float | None:
        """Of the active channels of a head."""
        with no_dispatch():
            ids = self.context.shadow(query)
            active = self.active[ids].sum(-1)
        return 1 / math.sqrt(int(active.max()))

    def _scale(self, op: Operation) -> Any:
        """A number that forward takes from channels, as for a mean of their sum: of those that are active.

        It scales what was added up over them, as a statistic or the scores of attention, or what was divided by that.
        """
        number, summed, ids = op.args[1], self.context.sums.get(op.args[0]), op.ids[0]
        if not isinstance(number, int | float) or not 1 / LARGEST < abs(number) < LARGEST:
            return number
        counted = [distinct(summed).reshape(-1)] if isinstance(summed, Tensor) else []
        if isinstance(ids, Tensor) and self.context.module in self.statistics:
            scaled = torch.unique(distinct(ids))
            counted += [own for own in self.statistics[self.context.module] if torch.equal(torch.unique(own), scaled)]
        for own in counted:
            share = float(self.active[own].sum()) / len(own)
            for power in POWERS:
                places = abs(number) ** (1 / power) / len(own)  # at each of which the channels are counted
                if round(places) > 0 and math.isclose(places, round(places)):
                    return number * share**power
        return number

    def active_part(self, x: Any, ids: Any) -> Any:
        if not isinstance(ids, Tensor) or not isinstance(x, Tensor) or x.layout is not torch.strided:
            return x
        on = self.active[distinct(ids)]
        return x if bool(on.all()) else torch.where(on.to(x.device), x, 0)  # what is masked may be NaN

    def _mask_axes(self, weight: Tensor, ref: WeightRef, dims: Sequence[int]) -> Tensor:
        """The weight with zeros for the inactive channels of some dimensions."""
        for dim in dims:
            on = self.active[ref.column(dim, weight.shape[dim])].to(weight)
            weight = weight * on.view([-1 if d == dim else 1 for d in range(weight.dim())])
        return weight

    def _picks(self, x: Tensor, ids: Shadow, dims: Sequence[int]) -> Picks | None:
        """The active positions of dimensions, where any is not active."""
        if isinstance(ids, Tensor):
            ids = compact(self.ties.canonical(ids))
            if any(varies(ids, dim) for dim in range(ids.dim()) if dim not in dims):
                return None  # channels that meet are one unit
            return active_positions(ids, self.active)
        on = {dim: self.active[ids.column(dim, x.shape[dim])] for dim in dims}
        return [(dim, mask.nonzero()[:, 0]) for dim, mask in on.items() if not bool(mask.all())]

    def _within(self, x: Tensor, ids: Shadow, dims: Sequence[int]) -> Tensor:
        """What a statistic over some dimensions is of."""
        return select(x, self._picks(x, ids, dims) or [])

    def _norm(self, op: Operation) -> Any:
        """A norm with its statistics over the active channels."""
        x, made = op.args[0], op.func(*op.args, **op.kwargs)
        dims, norm, weight, bias = _standardises(op)
        picks = self._picks(x, op.ids[0], dims)
        if not picks:
            return made
        out = torch.zeros_like(x)
        index = torch.meshgrid(*_grid(x, picks), indexing="ij")
        out[index] = norm(select(x, picks))
        out = out if weight is None else out * weight
        out = out if bias is None else out + bias
        return out if isinstance(made, Tensor) else (out, *[None] * (len(made) - 1))  # its moments are used by nobody


def _over_channels(op: Operation) -> bool:
    """Whether this is a norm that takes statistics over channels."""
    if op.name == "native_group_norm":
        return bool(op.args[6] == 1)
    return op.name in {"native_layer_norm", "rms_norm"} or (
        op.name.endswith("batch_norm") and isinstance(op.ids[0], WeightRef)
    )


def _standardises(op: Operation) -> tuple[list[int], Any, Tensor | None, Tensor | None]:
    """The dimensions over which a norm takes its statistics, the norm without affine, and its weight and bias."""
    count = op.args[0].dim()
    if op.name in {"rms_norm", "native_layer_norm"}:
        axes = len(op.argument(1, "normalized_shape"))
        weight, dims = op.argument(2, "weight"), list(range(count - axes, count))
        if op.name == "rms_norm":
            eps = op.argument(3, "eps")
            return dims, lambda x: F.rms_norm(x, x.shape[-axes:], eps=eps), weight, None
        return dims, lambda x: F.layer_norm(x, x.shape[-axes:], eps=op.args[4]), weight, op.args[3]
    shape = [-1 if dim == 1 else 1 for dim in range(count)]
    weight, bias = (None if p is None else p.view(shape) for p in op.args[1:3])
    if op.name == "native_group_norm":
        return list(range(1, count)), lambda x: F.group_norm(x, 1, eps=op.args[7]), weight, bias
    dims = [dim for dim in range(count) if dim != 1]
    return dims, lambda x: F.batch_norm(x, None, None, training=True, eps=op.args[7]), weight, bias


Picks = list[tuple[int, Tensor]]


def _grid(x: Tensor, picks: Picks) -> list[Tensor]:
    """The positions that are picked, of every dimension."""
    found = dict(picks)
    return [found.get(dim, torch.arange(size)).to(x.device) for dim, size in enumerate(x.shape)]


def active_positions(ids: Tensor, active: Tensor) -> Picks | None:
    """The active positions of each dimension along which the ids vary; None if they are no grid."""
    on, along = active[distinct(ids)], varying(ids)
    if len(along) < 2:
        return [(dim, on.reshape(-1).nonzero()[:, 0]) for dim in along]
    picks: Picks = []
    grid = torch.ones((), dtype=torch.bool)
    for dim in along:
        keep = on.any([d for d in range(on.dim()) if d != dim])
        picks.append((dim, keep.nonzero()[:, 0]))
        grid = grid & keep.view([-1 if d == dim else 1 for d in range(on.dim())])
    return picks if bool((grid == on).all()) else None


def select(x: Tensor, picks: Picks) -> Tensor:
    for dim, index in picks:
        x = _part(x, dim, index)
    return x


def _part(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """These positions, in order, of a dimension; of a run of them no copy is made."""
    if len(index) and int(index[-1]) - int(index[0]) + 1 == len(index):
        return x.narrow(dim, int(index[0]), len(index))
    return x.index_select(dim, index.to(x.device))


@dataclass(frozen=True)
class Sums:
    """The sum of a result and of its absolute values, to know it by."""

    shape: torch.Size
    sum: float
    size: float

    def alike(self, other: Sums, tolerance: float) -> bool:
        """Whether both may be sums of one result; of other shapes they cannot be compared."""
        return self.shape != other.shape or abs(self.sum - other.sum) <= 10 * tolerance * (self.size + other.size)


def sums(active: Tensor | None, ids: Shadow | None, x: Any) -> Sums | None:
    """Of the active channels of a result of the masked network; of the whole, in the sliced one."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not isinstance(ids, Tensor) or not tracked(ids):
        return None
    picks = [] if active is None else active_positions(ids, active)
    if picks is None:
        return None
    part = select(x, picks).double()
    size = float(part.abs().sum())
    if not size <= LARGEST:  # masks have infinities
        part = part.nan_to_num(0.0, 0.0, 0.0).clamp(-LARGEST, LARGEST)
        size = float(part.abs().sum())
    return Sums(part.shape, float(part.sum()), size)


def copies(ids: Shadow | None, x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x


def by_moment(run: Replay) -> dict[Moment, list[Any]]:
    return {step.moment: made for step, made in zip(run.log, run.results, strict=False) if not step.copies}
