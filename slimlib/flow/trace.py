"""One eager run of a network with channel ids beside every tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from slimlib.core.structures import opaque, outputs, tensors
from slimlib.flow import caches
from slimlib.flow.context import Context, plain_modules
from slimlib.flow.functions import FunctionsAsOperations, python_functions_in_parts
from slimlib.flow.ids import Shadow, WeightRef, everywhere, of_none, tracked, untracked
from slimlib.flow.operations import Operation, apply_rule, each_tensor, parts_of
from slimlib.flow.sizes import READS, LooksAtNumbers, reads, zeros_for
from slimlib.flow.steps import Choices, FlowError, Step, place_of
from slimlib.flow.ties import Ties

INPUT, OUTPUT = "is joined with the network's input", "reaches the network's output"
ASSIGNED = "is joined with a buffer that forward assigns anew"


class Trace(TorchDispatchMode):
    """Runs a network and tells `ties` what every operation does to the channels; `log` has what it saw."""

    def __init__(self, net: nn.Module, ties: Ties, choices: Choices, origin: nn.Module) -> None:
        """`origin` is the user's network, which `net` is a copy of: it tells the classes of the modules."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.net, self.ties, self.choices = net, ties, choices
        self.computes = choices.numbers_matter
        self.modules = plain_modules(net)
        self.context = Context(self.modules, ties, choices, dict(origin.named_modules()))
        self.log: list[Step] = []
        self.entered: dict[str, list[Tensor]] = {}  # the ids that enter each module
        self.overwritten: dict[tuple[int, torch.Size], tuple[Tensor, Tensor]] = {}  # what forward wrote to, as it was
        self.phase: Literal["forward", "operation", "rule"] = "forward"  # whose code runs now

    def follow(self, args: tuple[Any, ...]) -> list[Tensor]:
        """Run the network; the tensors of its output."""
        for x in tensors(args):
            marks = x.dtype in (torch.bool, torch.int64)  # tokens, positions and masks have no channels
            self.context.shadows[x] = untracked(x.shape) if marks else everywhere(self.ties.stay(INPUT), x.shape)
        with (
            torch.no_grad(),
            unchanged(self.net) as assigned,
            self._weights_restored(),
            _plain_attention(),
            self._module_names(),
            python_functions_in_parts(),
            FunctionsAsOperations(self.context, self.step, self.attention_scale, self.see),
            self,
        ):
            before = {path: caches.held(value) for path, _, _, value in caches.attributes(self.net)}
            try:
                returned = self.net(*args)
            except Exception as error:
                error.add_note(place_of(self.context.module, self.context.kind))
                raise
            with no_dispatch():
                self.ties.caches.update(caches.filled(self.net, before, self._follows))
        for name in assigned:
            if name in self.context.tensors:
                self.ties.fix_all(self.context.shadow(self.context.tensors[name]), ASSIGNED)
        made = outputs(returned)
        hidden = " and ".join(dict.fromkeys(type(x).__name__ for x in opaque(returned)))
        if hidden or not made:
            raise FlowError(
                f"what is returned in the network's own forward ({hidden or type(returned).__name__}) hides tensors; "
                "return them in tuples, lists, dicts or dataclasses, or as attributes of an object"
            )
        for output in made:
            self.ties.fix_all(self.context.shadow(output), OUTPUT)
            if found := self.context.statistics.get(output):
                self.ties.fix(found.ids, found.why)
        return made

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        name = packet.__name__ if func.namespace == "aten" else f"{func.namespace}.{packet.__name__}"
        in_place = func._schema.is_mutable
        if in_place and name.endswith("_") and not name.startswith("_"):
            name = name[:-1]
        parts = None if in_place else parts_of(name, func)
        if parts is not None and any(map(self._follows, tensors((args, kwargs)))):
            with self:
                return parts(*args, **kwargs)
        return self.step(name, func, args, kwargs, in_place)

    def step(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], in_place: bool
    ) -> Any:
        """Run one operation, then its rule."""
        context = self.context
        context.operation, self.phase = name, "rule"
        ids, kwids = each_tensor(context.shadow, args), each_tensor(context.shadow, kwargs)
        op = Operation(context, name, func, args, kwargs, ids, kwids)
        self._use_positions(op)
        site, inputs, weights = context.site, context.entering(op), op.weights
        for shadows, chosen in ((inputs, self.choices.keep), (weights, self.choices.weights)):
            if chosen and (why := chosen.get((site, None)) or chosen.get((site, context.shapes))):
                for shadow in shadows:
                    self.ties.fix_all(shadow, why)
        if in_place and args and isinstance(ids[0], WeightRef):
            written = args[0].data_ptr(), args[0].shape  # a part of a weight may be written to before the whole
            if written not in self.overwritten:
                self.overwritten[written] = args[0], args[0].clone()
        self.phase = "operation"
        out = op.out = self.compute(op)
        self.phase = "rule"
        result = apply_rule(op) if op.follows else None
        outs = list(out) if isinstance(out, (tuple, list)) else [out]
        results: list[Any] = list(result) if isinstance(result, (tuple, list)) else [result] * len(outs)
        made: list[Shadow | None] = []
        for o, r in zip(outs, results, strict=False):
            if isinstance(o, Tensor) and not o.numel() and inputs and not (isinstance(r, Tensor) and tracked(r)):
                r = of_none(inputs[0], o.shape)
            fits = isinstance(o, Tensor) and (
                isinstance(r, WeightRef) or (isinstance(r, Tensor) and r.shape == o.shape)
            )
            made.append(r if fits else None)
            if fits and context.name_of(o) is None:
                context.shadows[o] = r
        if in_place and args and isinstance(args[0], Tensor) and args[0] is outs[0]:
            context.write_through(args[0], before=ids[0])
        context.pass_on(op, outs)
        self.log.append(Step(site, context.moment, context.kind, op.settings, inputs, weights, made))
        self.finished(op, outs)
        context.count()
        self.phase = "forward"
        return out

    def compute(self, op: Operation) -> Any:
        """Run the operation; of large products only the size is computed while forward looks at no numbers."""
        if not self.computes and reads(op):
            raise LooksAtNumbers
        zeros = None if self.computes else zeros_for(op.name, op.func, op.args, op.kwargs)
        return op.func(*op.args, **op.kwargs) if zeros is None else zeros

    def see(self, function: str) -> None:
        """Called for each function of torch that is run in parts."""
        if not self.computes and function in READS:
            raise LooksAtNumbers

    def attention_scale(self, query: Tensor) -> float | None:
        """The scale of attention [..., T, D] where none is given; None: what torch takes for D channels."""
        return None

    def finished(self, op: Operation, outs: list[Any]) -> None:
        """Called after every operation, which is the last of `log`."""

    def _follows(self, x: Tensor) -> bool:
        """Whether a tensor follows channels."""
        shadow = self.context.shadow(x)
        return isinstance(shadow, WeightRef) or tracked(shadow)

    def _use_positions(self, op: Operation) -> None:
        """Where the largest of all channels lies is known for one width; where that is computed with, they stay."""
        for _, x in op.operands:
            if x.dtype == torch.int64 and (found := self.context.statistics.get(x)):
                self.ties.fix(found.ids, found.why)

    @contextmanager
    def _weights_restored(self) -> Iterator[None]:
        """Afterwards weights are as before, also where forward writes into them, as into those under a mask."""
        try:
            yield
        finally:
            for weight, before in reversed(self.overwritten.values()):
                weight.detach().copy_(before)

    @contextmanager
    def _module_names(self) -> Iterator[None]:
        """Keep `stack` while modules run; after an exception it still shows where."""

        def enter(name: str, module: nn.Module, *args: Any) -> None:
            shadows = [self.context.shadows.get(x) for x in tensors(args)]
            ids = [shadow for shadow in shadows if isinstance(shadow, Tensor)]
            self.entered.setdefault(name, []).extend(ids)
            if why := self.choices.entering.get(name):
                for entering in ids:
                    self.ties.fix(entering, why)
            self.context.enter(name)

        def leave(*_: Any) -> None:
            self.context.leave()

        handles = []
        for name, module in self.modules:
            if name:
                handles.append(module.register_forward_pre_hook(partial(enter, name), with_kwargs=True))
                handles.append(module.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def unchanged(net: nn.Module) -> Iterator[list[str]]:
    """Within the block forward may change attributes, buffers and hooks; afterwards all are as they were.

    The list then has the names of the buffers that were assigned anew.
    """
    modules = list(net.named_modules())
    kept = [
        (name, module, dict(module.__dict__), [(key, b, None if b is None else b.clone()) for key, b in held])
        for name, module in modules
        if not isinstance(module, torch.jit.ScriptModule)
        for held in [list(module._buffers.items())]
    ]
    hooks = [
        (held, dict(held))
        for _, module in modules
        for key, held in module.__dict__.items()
        if isinstance(held, dict) and (key.startswith("_forward_") or key not in caches.BARE)
    ]
    assigned: list[str] = []
    try:
        yield assigned
    finally:
        for held, own in hooks:
            if list(map(id, (*held, *held.values()))) != list(map(id, (*own, *own.values()))):  # else it may be frozen
                held.clear()
                held.update(own)
        for name, module, attributes, buffers in kept:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for key, buffer, value in buffers:
                if module._buffers.get(key) is not buffer:
                    assigned.append(f"{name}.{key}".lstrip("."))
                    module._buffers[key] = buffer
                if buffer is not None and value is not None:
                    buffer.copy_(value)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention of torch's modules in the operations that it is made of."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
