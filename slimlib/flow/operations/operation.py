"""An operation of the run, as its rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from slimlib.flow.context import Context
from slimlib.flow.ids import (
    Dimension,
    Shadow,
    WeightRef,
    compact,
    distinct,
    everywhere,
    tracked,
    untracked,
    varies,
    varying,
)
from slimlib.flow.undecided import Repeated

DROPOUTS = {
    "dropout",
    "alpha_dropout",
    "feature_dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
}
Result: TypeAlias = Shadow | Sequence[Shadow | None] | None


@dataclass
class Operation:
    """One call of an operator: its arguments, and `ids`, the same arguments with shadows instead of tensors."""

    context: Context
    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    ids: Sequence[Any]
    kwids: dict[str, Any]
    out: Any = None

    @property
    def x(self) -> Tensor:
        """The ids of the first argument."""
        ids: Tensor = self.ids[0]
        return ids

    @property
    def first(self) -> Tensor:
        """The first result."""
        out: Tensor = self.out[0] if isinstance(self.out, (tuple, list)) else self.out
        return out

    @cached_property
    def operands(self) -> list[tuple[Shadow, Tensor]]:
        """Each tensor argument, with its ids or the weight that it is."""
        return list(_pairs((self.ids, self.kwids), (self.args, self.kwargs)))

    @property
    def tensors(self) -> list[Tensor]:
        """The ids of all tensor arguments that are no weights."""
        return [ids for ids, _ in self.operands if isinstance(ids, Tensor)]

    @property
    def weights(self) -> list[WeightRef]:
        """The arguments that are weights."""
        return [ids for ids, _ in self.operands if isinstance(ids, WeightRef)]

    @property
    def follows(self) -> bool:
        """Whether any argument follows channels, or is a weight."""
        return any(isinstance(ids, WeightRef) or tracked(ids) for ids, _ in self.operands)

    @property
    def settings(self) -> tuple[Any, ...]:
        """The arguments that are plain numbers; a dropout does the same whatever its are."""
        if self.name in DROPOUTS:
            return ()
        return tuple(x for x in (*self.args, *self.kwargs.values()) if isinstance(x, bool | int | float | str))

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def argument_ids(self, position: int, name: str) -> Any:
        """The ids of an argument given by position or by name."""
        return self.ids[position] if len(self.ids) > position else self.kwids.get(name)

    def tie(self, a: Tensor, b: Tensor) -> None:
        self.context.ties.tie(a, b, self.context.here)

    def fix(self, ids: Tensor, why: str) -> None:
        self.context.ties.fix(ids, f"{why}: {self.context.here}")

    def stay(self, why: str) -> int:
        return self.context.ties.stay(f"{why}: {self.context.here}")

    def fix_all(self, shadow: Shadow, why: str) -> None:
        self.context.ties.fix_all(shadow, f"{why}: {self.context.here}")

    def see_as_data(self) -> None:
        """See the elements of weights one by one, each with an id of its own."""
        if self.weights:
            self.ids = _with_shapes(self.data, self.ids, self.args)
            self.kwids = _with_shapes(self.data, self.kwids, self.kwargs)
            del self.operands

    def copied(self) -> Operation:
        """The same, of which the ids may be changed."""
        return Operation(self.context, self.name, self.func, self.args, self.kwargs, self.ids, self.kwids, self.out)

    def data(self, ids: Shadow, x: Tensor) -> Tensor:
        """The ids of the elements, also of a weight."""
        if isinstance(ids, Tensor):
            return ids
        if ids.as_data is not None:
            return ids.as_data
        if ids.own:
            return self.context.elements(ids, x)
        along = [dim for dim, axes in enumerate(ids.dims) if axes]
        if len(along) == 1:  # the mean of a table's rows, say
            return self._along(ids, along[0], x)
        computed = "uses a weight that is computed so that its channels cannot be told apart"
        why = computed if ids.name else "takes each element of an outer product of channels by itself"
        self.fix_all(ids, why)
        return everywhere(self.stay(why), x.shape)

    def along(self, ids: Shadow, x: Tensor, dim: int) -> Tensor:
        """The ids of channels that lie on an axis; also of a weight, as a table of queries, which makes them."""
        if isinstance(ids, Tensor) or not ids.dims[dim]:
            return self.data(ids, x)
        for axis in [axis for axes in ids.dims if axes is not ids.dims[dim] for axis in axes]:
            self.fix(axis.ids, "rows of a table")
        return self._along(ids, dim % x.dim(), x)

    def hands_out(self, dim: Dimension) -> None:
        """Remember that the channels of these weight axes are made here."""
        for axis in dim:
            self.context.ties.producers.update(dict.fromkeys(axis.keys))

    def _along(self, ids: WeightRef, dim: int, x: Tensor) -> Tensor:
        """The ids of channels that one axis of a weight makes; of several the first that is longer than 1."""
        first = next((axis for axis in ids.dims[dim] if len(axis.ids) > 1), None)
        for axis in ids.dims[dim]:
            if first is not None and axis is not first:
                self.fix(axis.ids, "lies within the channels of another axis")
        self.hands_out(ids.dims[dim])
        return ids.column(dim, x.shape[dim]).view([-1 if d == dim else 1 for d in range(x.dim())]).expand(x.shape)

    @staticmethod
    def gives_channels(x: Tensor, dim: int, inputs: Tensor) -> None:
        """What forward made beside other channels, as the first state of a loop, has those of the weight it enters."""
        few = distinct(x)
        if varying(x) == [dim] and bool((few == 0).any()):
            few.copy_(torch.where(few == 0, inputs.view(few.shape), few))

    def column(self, ids: Tensor, dim: int) -> Tensor:
        """One id for every position of `dim`; ids that vary along other dimensions are tied."""
        size = ids.shape[dim]
        rows = distinct(ids).movedim(dim, 0)
        rows = rows.reshape(size if varies(ids, dim) else 1, -1)
        if rows.shape[1] == 1:
            return rows[:, 0].expand(size)
        column = rows.max(1).values  # 0: what forward added, zeros around an image say
        self.tie(rows, column[:, None])
        return column.expand(size)

    def elementwise(self, operands: Sequence[Tensor], shape: torch.Size) -> Tensor:
        """Tie operands that are broadcast to `shape`; the ids of the result."""
        operands = [untracked(ids.shape) if self._is_stretched(ids, operands, shape) else ids for ids in operands]
        full = [ids.expand(shape) for ids in operands]
        out: Tensor | None = None
        for i in range(len(operands)):
            if self._same_for_heads(i, operands, full) or self._repeated(i, operands, full):
                continue
            if out is None:
                out = full[i]
                continue
            a, b = torch.broadcast_tensors(distinct(out), distinct(full[i]))
            self.tie(a, b)
            self._meets_own(a, b)
            self._meets_own(b, a)
            out = torch.where(a == 0, b, a).expand(shape)
        out = untracked(shape) if out is None else out
        if distinct(out).numel() > max(shape, default=1):
            out = self.context.ties.canonical(out)  # ids tied meanwhile become one: the shadow is small again
        return compact(out)

    @staticmethod
    def _is_stretched(ids: Tensor, operands: Sequence[Tensor], shape: torch.Size) -> bool:
        """Whether what has one id takes its size from what forward made, as a mask does that is added to zeros."""
        if not tracked(ids) or varying(ids):
            return False
        begin = len(shape) - ids.dim()
        short = {dim for dim in range(len(shape)) if dim < begin or ids.shape[dim - begin] == 1}
        made = [other.shape for other in operands if not tracked(other)]
        wide = {len(shape) - len(own) + dim for own in made for dim, size in enumerate(own) if size > 1}
        return not wide.isdisjoint(short)

    def _meets_own(self, ids: Tensor, other: Tensor) -> None:
        """Channels that meet those which forward itself added to others (zeros of a padded shortcut) stay.

        Not so rows of zeros, of all channels: a token that is put before others.
        """
        own = ids == 0
        if not bool(own.any()) or bool(own.all()) or not bool((other[own] > 0).any()):
            return
        if all(_differs(own, dim) for dim in range(own.dim()) if _differs(other, dim)):
            self.fix(other[own], "meets channels that forward adds by itself")

    def _repeated(self, i: int, operands: Sequence[Tensor], full: Sequence[Tensor]) -> bool:
        """Whether an operand is repeated over the channels of the others: a gate [N, 1, H, W], a norm of each head.

        It stays, unless it lies along channels, too, and these turn out to shrink. Of an outer product, in which each
        is repeated over the other, only the fewer channels stay.
        """
        ids, repeated = operands[i], _broadcast(operands[i], full[i].shape)
        over = [j for j, other in enumerate(full) if j != i and repeated & set(varying(other))]
        if not over or not tracked(ids):
            return False
        own = set(range(full[i].dim())) - repeated
        whole = next((full[j] for j in over if own & set(varying(full[j]))), None)
        if whole is not None:
            self._leave_open(distinct(full[i]), whole, sorted(own & set(varying(whole))))
            return True
        along, size = set(varying(full[i])), distinct(ids).numel()
        outer = [
            j for j in over if along <= _broadcast(operands[j], full[j].shape) and distinct(operands[j]).numel() < size
        ]
        if along and outer == over:
            return False
        if all(_is_outer(ids, full[i], full[j]) for j in over):
            self.context.ties.shared.add(self.context.site)
            if self.context.site in self.context.choices.whole:
                return False
        self.context.ties.keep_apart(distinct(ids), f"broadcast over other channels: {self.context.here}")
        return True

    def _same_for_heads(self, j: int, operands: Sequence[Tensor], full: Sequence[Tensor]) -> bool:
        """Whether an operand stays since it is the same for all channels of another, which are to slim."""
        if self.context.site not in self.context.choices.whole:
            return False
        if not any(_is_outer(operands[i], full[i], full[j]) for i in range(len(full)) if i != j):
            return False
        self.context.ties.keep_apart(distinct(full[j]), f"the same for all heads: {self.context.here}")
        return True

    def _leave_open(self, vector: Tensor, whole: Tensor, dims: Sequence[int]) -> None:
        ties, here = self.context.ties, self.context.here
        meets = partial(ties.tie, vector, distinct(whole), here)
        stays = partial(ties.keep_apart, vector, f"the same for all heads: {here}")
        ties.leave_open(Repeated(whole, dims, whole=stays, alike=meets, likeliest=meets))


def _differs(x: Tensor, dim: int) -> bool:
    """Whether it is not the same all along a dimension."""
    return x.shape[dim] > 1 and bool((x != x.narrow(dim, 0, 1)).any())


def _broadcast(ids: Tensor, shape: torch.Size) -> set[int]:
    """The dimensions of a shape over which a tensor is repeated."""
    begin = len(shape) - ids.dim()
    return {d for d in range(len(shape)) if shape[d] > 1 and (d < begin or ids.shape[d - begin] == 1)}


def _is_outer(ids: Tensor, full: Tensor, other: Tensor) -> bool:
    """Whether a tensor is repeated over the channels of another, which are the same for all of its own."""
    own, others = set(varying(full)), set(varying(other))
    return bool(own) and own.isdisjoint(others) and not others.isdisjoint(_broadcast(ids, full.shape))


def each_tensor(change: Callable[[Tensor], Any], x: Any) -> Any:
    """Arguments of an operator with every tensor changed; they are nested at most in lists."""
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, (list, tuple)):
        return [each_tensor(change, item) for item in x]
    return {key: each_tensor(change, item) for key, item in x.items()} if isinstance(x, dict) else x


def _with_shapes(change: Callable[[Shadow, Tensor], Any], ids: Any, x: Any) -> Any:
    """The same of ids, each with its tensor."""
    if isinstance(x, Tensor):
        return change(ids, x)
    if isinstance(x, (list, tuple)):
        return [_with_shapes(change, inner, item) for inner, item in zip(ids, x, strict=True)]
    return {key: _with_shapes(change, ids[key], item) for key, item in x.items()} if isinstance(x, dict) else x


def _pairs(ids: Any, x: Any) -> Iterator[tuple[Shadow, Tensor]]:
    if isinstance(x, Tensor):
        yield ids, x
    elif isinstance(x, (list, tuple)):
        for inner, item in zip(ids, x, strict=True):
            yield from _pairs(inner, item)
    elif isinstance(x, dict):
        for key, item in x.items():
            yield from _pairs(ids[key], item)


Rule: TypeAlias = Callable[[Operation], Result]


def table(*rules: tuple[Rule, str]) -> dict[str, Rule]:
    """Name of each operation -> its rule. Named as in torch.ops.aten, in-place ones without their underscore."""
    return {name: rule for rule, names in rules for name in names.split()}
