"""Rules that choose a width for each input, as operating points that count what they spend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.structures import tensors
from slimlib.core.width import Width, WidthPlan
from slimlib.dynamic.cascade import Answer
from slimlib.dynamic.gated import frozen
from tasks.points import Spent, name_of_width

Serve = Callable[..., Any]


class Counted:
    """What networks cost at their widths, each counted once."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[nn.Module, dict[Any, slim.Cost]] = WeakKeyDictionary()

    def __call__(self, net: nn.Module, example: Any, width: Width = 1.0) -> slim.Cost:
        key = width, tuple(tensor.shape for tensor in tensors(example))
        known = self._of.setdefault(net, {})
        if key not in known:
            known[key] = slim.cost(net, example, width)
        return known[key]


class WidthRule(ABC):
    """A rule whose widths are counted; a subclass chooses.

    Attributes:
        cost: of a network at a width; rules that are scored on the same network may share one.
        widths: that it chooses among, which need BatchNorm statistics.
    """

    def __init__(self, widths: Sequence[Width]) -> None:
        self.widths: Sequence[Width] = tuple(widths)
        self.cost = Counted()
        self._counts: Counter[Width] = Counter()

    def __call__(self, net: nn.Module, *inputs: Any) -> Any:
        """The outputs for a batch, each input at a width of its own."""
        answer = self.answer(net, *inputs)
        self._counts.update(answer.widths)
        return answer.output

    @abstractmethod
    def answer(self, net: nn.Module, *inputs: Any) -> Answer:
        """The outputs, and the widths that were chosen."""

    def costs(self, net: nn.Module, example: Any) -> Mapping[Width, float]:
        """Multiply-adds of an input that ended at each width."""
        return {width: float(self.cost(net, example, width).macs) for width in self._counts}

    def served_by(self, net: nn.Module) -> Serve:
        """What answers batches fast: by a frozen copy of the network."""
        serving = frozen(net, self.widths)
        return lambda *inputs: self.answer(serving, *inputs).output

    def spent(self, net: nn.Module, example: Any) -> Spent:
        """Mean cost of the inputs since the last call, and the share at each width."""
        costs, total = self.costs(net, example), sum(self._counts.values())
        macs = sum(costs[width] * count for width, count in self._counts.items()) / total
        shares = {self.named(width): self._counts[width] / total for width in self.widths if width in self._counts}
        self._counts.clear()
        return Spent(macs, self.cost(net, example).params, None, shares)

    def named(self, width: Width) -> str:
        """A width in the shares of a record."""
        return "plan" if isinstance(width, WidthPlan) else name_of_width(float(f"{width:.4g}"))


class Constant(WidthRule):
    """One width for all."""

    def answer(self, net: nn.Module, *inputs: Any) -> Answer:
        slim.set_width(net, self.widths[0])
        output = net(*inputs)
        return Answer(output, tuple(self.widths) * len(inputs[0]))


class AtRandom(WidthRule):
    """Two widths, the wider for a share of the inputs, drawn anew for each; the same in every evaluation."""

    def __init__(self, widths: Sequence[Width], share: float, seed: int) -> None:
        super().__init__(widths)
        self.share, self._generator = share, torch.Generator().manual_seed(seed)

    def answer(self, net: nn.Module, *inputs: Any) -> Answer:
        wide = torch.rand(len(inputs[0]), generator=self._generator) < self.share
        chosen = tuple(self.widths[int(each)] for each in wide)
        return Answer(slim.route(net, inputs, chosen), chosen)


class ByConfidence(WidthRule):
    """A cascade: an input costs all widths that it ran at."""

    def __init__(self, cascade: slim.Cascade) -> None:
        super().__init__(cascade.widths)
        self.cascade = cascade
        self._on: WeakKeyDictionary[nn.Module, slim.Cascade] = WeakKeyDictionary()

    def answer(self, net: nn.Module, *inputs: Any) -> Answer:
        if net not in self._on:
            self._on[net] = self.cascade.on(net)
        return self._on[net].answer(*inputs)

    def costs(self, net: nn.Module, example: Any) -> Mapping[Width, float]:
        spent, found = 0.0, {}
        for stage in self.cascade.stages():
            width = self.widths[stage]
            spent += self.cost(net, example, width).macs
            found[width] = spent
        return found


class ByGate(WidthRule):
    """A gate's choice, the scores of dear widths lowered by a price."""

    def __init__(self, gated: slim.Gated, price: float, macs: Sequence[int]) -> None:
        super().__init__(gated.widths)
        self.gated, self.price, self.macs = gated, price, macs

    def answer(self, net: nn.Module, *inputs: Any) -> Answer:
        self.gated.price = self.price
        return self.gated.eval().answer(*inputs)

    def costs(self, net: nn.Module, example: Any) -> Mapping[Width, float]:
        return dict(zip(self.widths, map(float, self.macs), strict=True))

    def served_by(self, net: nn.Module) -> Serve:
        serving = self.gated.freeze()
        serving.price = self.price
        return serving


class Oracle(WidthRule):
    """The narrowest width that is right, and the narrowest of all where none is: what choosing could give at best.

    Attributes:
        targets: of the next batch, which whoever evaluates tells it.
    """

    targets: Tensor = torch.empty(0)

    def answer(self, net: nn.Module, *inputs: Any) -> Answer:
        left, chosen = torch.ones(len(inputs[0]), dtype=torch.bool), [self.widths[0]] * len(inputs[0])
        for width in self.widths:
            with slim.at_width(net, width):
                right = (net(*inputs).argmax(1) == self.targets).cpu() & left
            for sample in right.nonzero()[:, 0].tolist():
                chosen[sample] = width
            left &= ~right
        return Answer(slim.route(net, inputs, chosen), tuple(chosen))
