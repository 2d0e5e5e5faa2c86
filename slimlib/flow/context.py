"""What both the run of a network and the rules of operations know: where the run is, and the ids of its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from slimlib.flow.ids import Shadow, WeightAxis, WeightRef, compact, distinct, same_ids, tracked, untracked
from slimlib.flow.steps import Choices, Moment, Shapes, Site, class_of_many, place, plain_name, shapes_of
from slimlib.flow.ties import Ties

Named: TypeAlias = Sequence[tuple[str, nn.Module]]


@dataclass
class Call:
    """One call of a module: which one it is, and how many operations of each name it has run."""

    module: str
    number: int
    counts: Counter[str] = field(default_factory=Counter)


class Statistic(NamedTuple):
    """What a tensor is a function of, and why."""

    ids: Tensor
    why: str


class Context:
    """The state of one run, all that the rule of an operation may read and change.

    ties: which channels live or die together.
    choices: what failed attempts have taught.
    modules: name -> module of the user's network, of which the one that runs is a copy.
    parameters: id of every parameter and buffer, as its module shows it -> its first name, and itself.
    shadows: tensor -> its ids, or the weight that it is.
    tensors: first name of every parameter and buffer -> itself.
    constants: tensor that parameters alone decide -> the name of one of them.
    statistics: what was made of all channels -> these, and how; where it is returned, they stay.
    sums: what follows no channels, but was made of some -> their ids.
    slices: tensor -> {dimension: where slices of it begin and end}.
    """

    def __init__(self, running: Named, ties: Ties, choices: Choices, modules: Mapping[str, nn.Module]) -> None:
        """`running`: the modules that run, by name."""
        self.ties, self.choices, self.modules = ties, choices, modules
        self.classes = {name: class_of_many(module) or f"'{name}'" for name, module in modules.items()}
        self.parameters = parameter_names(running)
        self.tensors = dict(self.parameters.values())
        self.shadows: Any = WeakTensorKeyDictionary()
        self.constants: Any = WeakTensorKeyDictionary()
        self.statistics: Any = WeakTensorKeyDictionary()
        self.sums: Any = WeakTensorKeyDictionary()
        self.slices: Any = WeakTensorKeyDictionary()
        self.operation = ""
        self.stack: list[Call] = [Call("", 0)]  # the modules that run now, innermost last
        self.calls: Counter[str] = Counter()
        self._shapes: dict[str, Shapes] = {}

    @property
    def module(self) -> str:
        """Name of the innermost module that runs."""
        return self.stack[-1].module

    @property
    def site(self) -> Site:
        """Where a rule is, for all modules of a class alike."""
        return self.classes[self.module], self.stack[-1].counts[plain_name(self.operation)], plain_name(self.operation)

    @property
    def shapes(self) -> Shapes:
        """The sizes of the parameters of the module that runs, in the network as it is."""
        if self.module not in self._shapes:  # asked for at every operation, and a root has all parameters
            self._shapes[self.module] = shapes_of(self.modules[self.module])
        return self._shapes[self.module]

    @property
    def moment(self) -> Moment:
        """Which operation of the run this is, whatever else comes between."""
        name, call = plain_name(self.operation), self.stack[-1]
        return call.module, call.number, name, call.counts[name]

    def enter(self, module: str) -> None:
        self.stack.append(Call(module, self.calls[module]))
        self.calls[module] += 1

    def leave(self) -> None:
        self.stack.pop()

    def count(self) -> None:
        """An operation has run."""
        self.stack[-1].counts[plain_name(self.operation)] += 1

    @property
    def here(self) -> str:
        """The operation and the module, for messages."""
        return place(self.operation, self.module, self.kind)

    @property
    def kind(self) -> str:
        """The class of the module that runs."""
        return type(self.modules[self.module]).__name__

    def statistic(self, ids: Tensor) -> None:
        """A function of all these channels, whatever their number; reported."""
        self.ties.statistics.setdefault((self.module, self.operation), []).append(distinct(ids).reshape(-1))

    def name_of(self, x: object) -> str | None:
        """The name of a parameter or buffer; None for any other object."""
        return self.parameters.get(id(x), (None, None))[0]

    def shadow(self, x: Any) -> Any:
        """The ids of a tensor, or a `WeightRef` for a weight. Other things unchanged."""
        if not isinstance(x, Tensor):
            return x
        name = self.name_of(x)
        if name is not None:
            self.ties.met.add(name)
        found: Shadow | None = self.shadows.get(x)
        if found is not None:
            return found
        if name is None or not (x.is_floating_point() or x.is_complex()) or x.numel() <= 1:
            return untracked(x.shape)
        if x.dim() == 1:
            return self.ties.fresh((name, None), x.numel())
        return WeightRef(name, tuple((self._axis(name, dim, size),) for dim, size in enumerate(x.shape)))

    def _axis(self, name: str, dim: int, size: int) -> WeightAxis:
        return WeightAxis(((name, dim),), self.ties.fresh((name, dim), size))

    def elements(self, weight: WeightRef, x: Tensor) -> Tensor:
        """An id for each element of a weight that is used as data; `fix` it first where these are not its own."""
        shape = self.tensors[weight.name].shape
        ids = self.ties.fresh((weight.name, None), shape.numel()).view(shape)
        order = []
        for axis in weight.axes:
            dim = axis.keys[0][1]
            assert isinstance(dim, int)
            order.append(dim)
            if axis.picked is not None:
                ids = ids.index_select(dim, axis.picked)
        ids = ids.permute(order)
        sizes = [size if axes else 1 for axes, size in zip(weight.dims, x.shape, strict=True)]
        return ids.reshape(sizes).expand(x.shape)

    def pass_on(self, op: Any, outs: Sequence[Any]) -> None:
        """What is made of parameters alone is constant; what is made of a statistic alone is one."""
        made = [out for out in outs if isinstance(out, Tensor)]
        if source := self._source(op.operands):
            for out in made:
                self.constants[out] = source
        if not self.sums:
            return
        statistics = [self.statistics.get(x) for _, x in op.operands if x.dim()]
        sums = [self.sums[x] for _, x in op.operands if x in self.sums]
        followed = any(isinstance(ids, WeightRef) or tracked(ids) for ids, _ in op.operands)
        for out in made:
            if statistics and statistics[0] and all(statistics) and out.is_floating_point():
                self.statistics.setdefault(out, statistics[0])
            if sums and not followed:
                self.sums.setdefault(out, sums[0])

    def _source(self, operands: Sequence[tuple[Shadow, Tensor]]) -> str | None:
        """A parameter of those that alone decide the result; what follows no channels decides nothing."""
        found = None
        for ids, x in operands:
            source = self.source_of(x)
            if source is None and (isinstance(ids, WeightRef) or tracked(ids)):
                return None
            found = found or source
        return found

    def entering(self, op: Any) -> list[Tensor]:
        """The ids of what an operation is given besides parameters, and of what it is a function of."""
        given = [ids for ids, x in op.operands if isinstance(ids, Tensor) and self.name_of(x) is None]
        return given + [self.sums[x] for _, x in op.operands if x in self.sums] if self.sums else given

    def write_through(self, x: Tensor, before: Shadow) -> None:
        """What was written into x, which may be a view, is in all tensors that share its memory."""
        written = self.shadow(x)
        if not x._is_view() or not isinstance(written, Tensor) or same_ids(written, before):
            return
        memory = x.untyped_storage()
        marks = torch.full((memory.nbytes() // x.element_size(),), -1)
        marks.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(written)
        base = x._base
        others = list(self.shadows) if base is None or base in self.shadows else [base, *self.shadows]
        for other in others:
            if other is x or other.layout is not torch.strided or other.dtype != x.dtype:
                continue
            there = self.shadow(other)
            if isinstance(there, Tensor) and other.untyped_storage().data_ptr() == memory.data_ptr():
                mark = marks.as_strided(other.shape, other.stride(), other.storage_offset())
                self.shadows[other] = compact(torch.where(mark >= 0, mark, there))

    def source_of(self, x: Tensor) -> str | None:
        """A parameter of those that alone decide a tensor; None if anything else does."""
        return self.name_of(x) or self.constants.get(x)


def parameter_names(modules: Named) -> dict[int, tuple[str, Tensor]]:
    """id of every parameter and buffer, as its module shows it -> its first name, and itself to keep the id valid."""
    first: dict[int, str] = {}
    found: dict[int, tuple[str, Tensor]] = {}
    for prefix, module in modules:
        for name, stored in [*module._parameters.items(), *module._buffers.items()]:
            if stored is not None:
                shown = getattr(module, name)
                own = first.setdefault(id(stored), f"{prefix}.{name}".lstrip("."))
                found.setdefault(id(shown), (own, shown))
    return found


def plain_modules(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules by name, without those that torch.jit compiled, into which no hook and no name leads."""
    return [(name, module) for name, module in net.named_modules() if not isinstance(module, torch.jit.ScriptModule)]
