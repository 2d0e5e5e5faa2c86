"""One eager run of a network with channel ids beside every tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from slimlib.flow.context import Context
from slimlib.flow.functions import FunctionsAsOperations
from slimlib.flow.ids import Shadow, WeightRef, everywhere, tracked
from slimlib.flow.operations import Operation, apply_rule, keeps_weights
from slimlib.flow.steps import Choices, FlowError, Step
from slimlib.flow.ties import Ties

INPUT, OUTPUT = "is joined with the network's input", "reaches the network's output"


class Trace(TorchDispatchMode):
    """Runs a network and tells `ties` what every operation does to the channels; `log` has what it saw."""

    def __init__(self, net: nn.Module, ties: Ties, choices: Choices, origin: nn.Module) -> None:
        """`origin` is the user's network, which `net` is a copy of: it tells the classes of the modules."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.net, self.ties, self.choices = net, ties, choices
        self.context = Context(net, ties, choices, dict(origin.named_modules()))
        self.log: list[Step] = []
        self.entered: dict[str, list[Tensor]] = {}  # the ids that enter each module
        self.phase: Literal["forward", "operation", "rule"] = "forward"  # whose code runs now

    def follow(self, args: tuple[Any, ...]) -> list[Any]:
        """Run the network; the leaves of its output."""
        for leaf in tree_leaves(args):
            if isinstance(leaf, Tensor):
                self.context.shadows[leaf] = everywhere(self.ties.stay(INPUT), leaf.shape)
        with (
            torch.no_grad(),
            _plain_attention(),
            self._module_names(),
            FunctionsAsOperations(self.context, self.step, self.attention_scale),
            self,
        ):
            outputs = tree_leaves(self.net(*args))
        for output in outputs:
            if isinstance(output, Tensor):
                ids = self.context.shadow(output, as_weight=False)
                assert isinstance(ids, Tensor)
                self.ties.fix(ids, OUTPUT)
        return outputs

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self.context.paused:
            return func(*args, **kwargs)
        packet = func.overloadpacket
        name = packet.__name__ if func.namespace == "aten" else f"{func.namespace}.{packet.__name__}"
        in_place = func._schema.is_mutable
        if in_place and name.endswith("_") and not name.startswith("_"):
            name = name[:-1]
        return self.step(name, func, args, kwargs, in_place)

    def step(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], in_place: bool
    ) -> Any:
        """Run one operation, then its rule."""
        self.context.operation, self.phase = name, "rule"
        as_weight = keeps_weights(name)
        ids, kwids = tree_map(lambda x: self.context.shadow(x, as_weight), (args, kwargs))
        op = Operation(self.context, name, func, args, kwargs, ids, kwids)
        if in_place:
            self._refuse_writes_into_views(op)
        self._use_statistics(op)
        inputs, weights = op.tensors, [ref for ref in tree_leaves(ids) if isinstance(ref, WeightRef)]
        if why := self.choices.keep.get(self.context.site):
            for entering in inputs:
                self.ties.fix(entering, why)
        self.phase = "operation"
        out = op.out = self.compute(op)
        self.phase = "rule"
        result = apply_rule(op)
        outs = list(out) if isinstance(out, (tuple, list)) else [out]
        results: list[Any] = list(result) if isinstance(result, (tuple, list)) else [result] * len(outs)
        weight = self._computed_from(op)
        shadows: list[Shadow | None] = []
        for o, r in zip(outs, results, strict=False):
            fits = isinstance(o, Tensor) and (
                isinstance(r, WeightRef) or (isinstance(r, Tensor) and r.shape == o.shape)
            )
            shadows.append(r if fits else None)
            if fits:
                self.context.shadows[o] = r
            if isinstance(o, Tensor) and weight is not None and not isinstance(r, WeightRef):
                self.context.computed[o] = weight
        self.log.append(Step(self.context.site, self.context.module, self.context.here, inputs, weights, shadows))
        self.finished(op, outs)
        self.context.counts[-1] += 1
        self.phase = "forward"
        return out

    def compute(self, op: Operation) -> Any:
        """Run the operation."""
        return op.func(*op.args, **op.kwargs)

    def attention_scale(self, query: Tensor) -> float | None:
        """The scale of attention [..., T, D] where none is given; None: what torch takes for D channels."""
        return None

    def finished(self, op: Operation, outs: list[Any]) -> None:
        """Called after every operation, which is the last of `log`."""

    def _computed_from(self, op: Operation) -> tuple[str, str] | None:
        """The parameter that alone decides the result of an operation other than a product."""
        if op.name in {"convolution", "mm", "addmm", "bmm", "embedding"}:
            return None
        source: tuple[str, str] | None = None
        for x in tree_leaves((op.args, op.kwargs)):
            if isinstance(x, Tensor):
                name, shadow = self.context.name_of(x), self.context.shadows.get(x)
                if x in self.context.computed:
                    source = source or self.context.computed[x]
                elif isinstance(shadow, WeightRef):
                    source = source or (shadow.name, op.name)
                elif name is not None and x.dim() > 1:
                    source = source or (name, op.name)
                elif name is None and shadow is not None and tracked(shadow):
                    return None
        return source

    def _use_statistics(self, op: Operation) -> None:
        """A number made of all channels may steer the control flow; where it is computed with, the channels stay."""
        if op.name in {"_local_scalar_dense", "item", "gt", "lt", "ge", "le", "eq", "ne", "is_nonzero"}:
            return
        for x in tree_leaves((op.args, op.kwargs)):
            if isinstance(x, Tensor) and x.dim() == 0 and x in self.context.statistics:
                ids, why = self.context.statistics[x]
                self.ties.fix(ids, why)

    def _refuse_writes_into_views(self, op: Operation) -> None:
        """A write through a view would change the channels of a tensor behind its shadow."""
        target = op.args[0] if op.args else None
        if not isinstance(target, Tensor) or not target._is_view():
            return
        mine = op.ids[0]
        others = [t for t in tree_leaves((op.ids[1:], op.kwids)) if isinstance(t, Tensor) and tracked(t)]
        if not others or (op.name != "copy" and isinstance(mine, Tensor) and bool((mine > 0).all())):
            return
        raise FlowError(
            f"{self.context.here} writes channels into a view of another tensor (slice assignment, index_put, copy_): "
            "they cannot be followed there. Build the tensor with torch.cat or torch.where instead."
        )

    @contextmanager
    def _module_names(self) -> Iterator[None]:
        """Keep `stack` while modules run; after an exception it still shows where."""

        def enter(name: str, module: nn.Module, *args: Any) -> None:
            shadows = [self.context.shadows.get(x) for x in tree_leaves(args) if isinstance(x, Tensor)]
            ids = [shadow for shadow in shadows if isinstance(shadow, Tensor)]
            self.entered.setdefault(name, []).extend(ids)
            if why := self.choices.entering.get(name):
                for entering in ids:
                    self.ties.fix(entering, why)
            self.context.stack.append(name)
            self.context.counts.append(0)

        def leave(*_: Any) -> None:
            self.context.stack.pop()
            self.context.counts.pop()

        handles = []
        for name, module in self.net.named_modules():
            if name:
                handles.append(module.register_forward_pre_hook(partial(enter, name), with_kwargs=True))
                handles.append(module.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as matrix products and a softmax."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
