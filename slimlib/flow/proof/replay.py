"""Runs that check a layout: the sliced network step by step, and the full network with the other channels masked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.flow.functions import DROPOUTS, RECURRENT
from slimlib.flow.ids import WeightRef, distinct, varies, varying
from slimlib.flow.operations import Operation, recurrent
from slimlib.flow.proof.known_ties import KnownTies
from slimlib.flow.steps import Choices, Step
from slimlib.flow.ties import Ties
from slimlib.flow.trace import Trace

NOISE = {"bernoulli", "normal", "uniform", "rand", "randn", "rand_like", "randn_like", "exponential"}
PRODUCTS = {"convolution": (0, 1), "mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2)}


class Replay(Trace):
    """A run without random numbers, which depend on the width; it can keep what every operation gave."""

    def __init__(self, net: nn.Module, ties: Ties, choices: Choices, origin: nn.Module, record: bool = False) -> None:
        super().__init__(net, ties, choices, origin)
        self.record = record
        self.results: list[list[Any]] = []

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
        return op.func(*op.args, **op.kwargs)

    def active_part(self, x: Any, ids: Any) -> Any:
        """What of `x` is computed with: all of it."""
        return x

    def finished(self, op: Operation, outs: list[Any]) -> None:
        if self.record:
            self.results.append([o.clone() if isinstance(o, Tensor) else o for o in outs])


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
        expected: Sequence[Step],
        active: Tensor,
        record: bool = False,
    ) -> None:
        super().__init__(net, ties, choices, origin, record)
        self.known, self.expected, self.active = ties, expected, active
        self.aligned = True  # the full network ran the same operations so far

    def step(self, name: str, *rest: Any) -> Any:
        position = len(self.log)
        self.context.operation = name
        if position >= len(self.expected) or self.expected[position].site != self.context.site:
            self.aligned = False
        return super().step(name, *rest)

    def finished(self, op: Operation, outs: list[Any]) -> None:
        super().finished(op, outs)
        if not self.aligned:
            return
        labels = self.ties.labels()
        for ids, got, out in zip(self.expected[len(self.log) - 1].outputs, self.log[-1].outputs, outs, strict=False):
            if not isinstance(ids, Tensor) or not isinstance(out, Tensor):
                continue
            picks = active_positions(ids, self.active)
            if picks is None:
                continue
            shape = list(ids.shape)
            for dim, index in picks:
                shape[dim] = len(index)
            if list(out.shape) != shape:
                self.log.pop()
                raise Misfit(f"gives {list(out.shape)} where {shape} is expected")
            wanted = labels[select(distinct_along(ids, picks), picks)]
            if isinstance(got, Tensor):
                if not bool(self.known.agree(*torch.broadcast_tensors(distinct(got), wanted)).all()):
                    self.log.pop()
                    raise Misfit("gives other channels than expected")
                self.context.shadows[out] = wanted.expand(out.shape)


class Masked(Replay):
    """The full network, where products and norms see only the active channels."""

    def __init__(
        self, net: nn.Module, ties: Ties, choices: Choices, origin: nn.Module, active: Tensor, record: bool = False
    ) -> None:
        super().__init__(net, ties, choices, origin, record)
        self.active = active

    def exact(self, op: Operation) -> Any:
        args = list(op.args)
        for position in PRODUCTS.get(op.name, ()):
            args[position] = self.active_part(args[position], op.ids[position])
        if op.name == "sum":
            args[0] = self.active_part(args[0], op.ids[0])
        if op.name == "_weight_norm_interface":
            args[0] = self._mask_inputs(args[0], op.ids[0], op.argument(2, "dim", 0))
        if op.name in {"native_layer_norm", "rms_norm"} and varies(op.ids[0], -1):
            return self._norm(op)
        return op.func(*args, **op.kwargs)

    def attention_scale(self, query: Tensor) -> float | None:
        """Of the active channels of a head."""
        with self.context.pause():
            ids = self.context.shadow(query, as_weight=False)
            active = self.active[ids].sum(-1)
        return 1 / math.sqrt(int(active.max()))

    def active_part(self, x: Any, ids: Any) -> Any:
        if not isinstance(ids, Tensor) or not isinstance(x, Tensor):
            return x
        on = self.active[distinct(ids)]
        return x if bool(on.all()) else torch.where(on.to(x.device), x, 0)  # what is masked may be NaN

    def _mask_inputs(self, weight: Tensor, ref: WeightRef, normed: int) -> Tensor:
        """The weight whose norm is taken for every channel of dimension `normed`: over the active inputs."""
        for position, dim in enumerate(ref.dims):
            ids = self.ties.atoms.get((ref.name, dim))
            if ids is not None and position != normed % weight.dim():
                shape = [-1 if d == position else 1 for d in range(weight.dim())]
                weight = weight * self.active[ids].to(weight).view(shape)
        return weight

    def _norm(self, op: Operation) -> Any:
        """LayerNorm or RMSNorm over the active channels of the last axis."""
        x = op.args[0]
        on = self.active[op.ids[0]].to(x)
        count = on.sum(-1, keepdim=True)
        weight, eps = op.argument(2, "weight"), op.argument(4 if op.name == "native_layer_norm" else 3, "eps")
        bias = op.argument(3, "bias") if op.name == "native_layer_norm" else None
        mean = (x * on).sum(-1, keepdim=True) / count
        centred = x - mean if op.name == "native_layer_norm" else x
        variance = (centred**2 * on).sum(-1, keepdim=True) / count
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        out = centred * (variance + eps).rsqrt()
        out = out if weight is None else out * weight
        out = out if bias is None else out + bias
        return out if op.name == "rms_norm" else (out, mean, variance)


Picks = list[tuple[int, Tensor]]


def active_positions(ids: Tensor, active: Tensor) -> Picks | None:
    """The active positions of each dimension along which the ids vary; None if they are no grid."""
    on = active[distinct(ids)]
    picks: Picks = []
    grid = torch.ones((), dtype=torch.bool)
    for dim in varying(ids):
        others = [d for d in range(on.dim()) if d != dim]
        keep = on.any(others) if others else on
        picks.append((dim, keep.nonzero()[:, 0]))
        grid = grid & keep.view([-1 if d == dim else 1 for d in range(on.dim())])
    return picks if bool((grid == on).all()) else None


def distinct_along(ids: Tensor, picks: Picks) -> Tensor:
    """The ids, of size 1 along every dimension that is not picked from."""
    dims = {dim for dim, _ in picks}
    for dim in range(ids.dim()):
        if dim not in dims and ids.shape[dim] > 1:
            ids = ids.narrow(dim, 0, 1)
    return ids


def select(x: Tensor, picks: Picks) -> Tensor:
    for dim, index in picks:
        x = x.index_select(dim, index.to(x.device))
    return x
