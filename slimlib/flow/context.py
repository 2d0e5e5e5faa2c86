"""What both the run of a network and the rules of operations know: where the run is, and the ids of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from slimlib.flow.ids import Shadow, WeightRef, untracked
from slimlib.flow.steps import Choices, Site, class_of_many
from slimlib.flow.ties import Ties


class Context:
    """The state of one run, all that the rule of an operation may read and change.

    ties: which channels live or die together.
    choices: what failed attempts have taught.
    modules: name -> module of the user's network, of which the one that runs is a copy.
    parameters: id of every parameter and buffer, as its module shows it -> its first name, and itself.
    shadows: tensor -> its ids, or the weight that it is.
    computed: tensor that parameters alone decide -> (name of a weight, operation).
    statistics: a number made of all channels -> (their ids, what made it).
    """

    def __init__(self, net: nn.Module, ties: Ties, choices: Choices, modules: Mapping[str, nn.Module]) -> None:
        self.ties, self.choices, self.modules = ties, choices, modules
        self.parameters = parameter_names(net)
        self.shadows: Any = WeakTensorKeyDictionary()
        self.computed: Any = WeakTensorKeyDictionary()
        self.statistics: Any = WeakTensorKeyDictionary()
        self.operation = ""
        self.stack: list[str] = [""]  # the modules that run now, innermost last
        self.counts = [0]  # operations that each of them has run
        self.paused = False  # what runs now is part of an operation that has a rule of its own

    @property
    def module(self) -> str:
        """Name of the innermost module that runs."""
        return self.stack[-1]

    @property
    def site(self) -> Site:
        kind = class_of_many(self.modules[self.module]) or f"'{self.module}'"
        return kind, self.counts[-1], self.operation

    @property
    def here(self) -> str:
        """The operation and the module, for messages."""
        if not self.module:
            return f"{self.operation} in the network's own forward"
        return f"{self.operation} in '{self.module}' ({type(self.modules[self.module]).__name__})"

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Within the block operations run without being followed."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def name_of(self, x: object) -> str | None:
        """The name of a parameter or buffer; None for any other object."""
        return self.parameters.get(id(x), (None, None))[0]

    def shadow(self, x: Any, as_weight: bool) -> Any:
        """The ids of a tensor; a `WeightRef` for a weight, where the operation can use one. Other things unchanged."""
        if not isinstance(x, Tensor):
            return x
        found: Shadow | None = self.shadows.get(x)
        name = self.name_of(x)
        if found is None and name is not None and x.is_floating_point():
            if as_weight and x.dim() > 1:
                return WeightRef(name, tuple(range(x.dim())))
            if x.numel() > 1:
                return self.ties.fresh((name, None), x.numel()).view(x.shape)
        if isinstance(found, WeightRef) and not as_weight:
            return self._as_data(found, x)
        return untracked(x.shape) if found is None else found

    def _as_data(self, weight: WeightRef, x: Tensor) -> Tensor:
        """The elements of a weight that was moved about before it is used as data."""
        order = [d for d in weight.dims if d is not None]
        size = dict(zip(weight.dims, x.shape, strict=True))
        shape = [size[d] for d in sorted(order)]
        ids = self.ties.fresh((weight.name, None), x.numel()).view(shape)
        return ids.permute([sorted(order).index(d) for d in order]).reshape(x.shape)


def parameter_names(net: nn.Module) -> dict[int, tuple[str, Tensor]]:
    """id of every parameter and buffer, as its module shows it -> its first name, and itself to keep the id valid."""
    first: dict[int, str] = {}
    found: dict[int, tuple[str, Tensor]] = {}
    for prefix, module in net.named_modules():
        for name, stored in [*module._parameters.items(), *module._buffers.items()]:
            if stored is not None:
                shown = getattr(module, name)
                own = first.setdefault(id(stored), f"{prefix}.{name}".lstrip("."))
                found.setdefault(id(shown), (own, shown))
    return found
