"""`Gated`: a stem at one width, a gate, and a tail whose width the gate chooses for each sample."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.core.arguments import arguments, check_batches
from slimlib.core.setting import at_width, check_module, in_eval, slimmable_parts
from slimlib.core.structures import map_tensors, tensors
from slimlib.core.width import Width, is_number
from slimlib.dynamic.batches import samples_in, take
from slimlib.dynamic.cascade import Answer, check_widths
from slimlib.dynamic.cutting import PartOf, cut, owner_of, plans_of
from slimlib.dynamic.gate import SlimmingGate, one_hot_choice
from slimlib.dynamic.grouping import Group
from slimlib.dynamic.outcomes import macs_at
from slimlib.dynamic.routing import SmallestGroup, plan_groups, run_groups
from slimlib.serving.extraction import extract
from slimlib.serving.freezing import FrozenNetwork, freeze, prepared, share_equal


class Gated(nn.Module):
    """A network that chooses a width for each sample: the stem runs at one, the gate chooses, the tail is routed.

    In eval mode the choice is the gate's highest score, and groups of samples run on slices, so that two evaluations
    are equal. In training mode the choice is random by the scores, with their gradient, and BatchNorm, like all of stem
    and tail, stays in eval mode: only the gate learns (see `GateTraining`).

    Args:
        stem: a module [N, ...] -> features [N, C, ...]. It may be slimmable or not.
        tail: a slimmable module, features -> outputs. Stem and tail may be networks of their own, or both be parts of
            one slimmable network, as `Gated.at` cuts it.
        gate: a module, features -> (features, scores [N, choices]); see `SlimmingGate`.
        widths: that the gate chooses from, narrow to wide.
        stem_width: of the stem; by default the narrowest of the widths.
        smallest_group: as of `slimlib.route`.

    Attributes:
        price: the run-time knob: each width's score is lowered by `price` times its cost, as a share of the widest. 0:
            the gate as trained; `price_for` finds the price of a mean cost.

    Raises:
        ValueError: widths out of order or not allowed, another number of them than the gate's choices, or a tail that
            is not slimmable.
        UncalibratedWidth: a width has no BatchNorm statistics; of a network cut in two these are of the plans in
            `tail_widths`.

    Source: Li et al. 2021 (DS-Net), sec. 3.
    """

    def __init__(
        self,
        stem: nn.Module,
        tail: nn.Module,
        gate: nn.Module,
        widths: Sequence[Width],
        *,
        stem_width: Width | None = None,
        smallest_group: SmallestGroup = 1,
    ) -> None:
        super().__init__()
        for name, module in (("stem", stem), ("tail", tail), ("gate", gate)):
            check_module(module, name)
        if not isinstance(widths, Sequence) or len(widths) < 2:
            raise ValueError(f"widths={widths!r} must be a list of at least two widths, from narrow to wide")
        self.widths, self.smallest_group = tuple(widths), smallest_group
        self.stem_width: Width = self.widths[0] if stem_width is None else stem_width
        self.tail_widths: tuple[Width, ...] = self.widths
        whole = owner_of(tail)
        if whole is not None:
            plans = plans_of(whole, stem, self.stem_width, self.widths)
            self.stem_width, self.tail_widths = plans[0], tuple(plans)
            stem, tail = PartOf(stem, whole), PartOf(tail, whole)
        choices = getattr(gate, "choices", len(self.widths))
        if choices != len(self.widths):
            raise ValueError(f"the gate chooses from {choices} widths; there are {len(self.widths)}: {list(widths)}")
        check_widths(tail, self.tail_widths)
        self.stem, self.tail, self.gate = stem, tail, gate
        self.price = 0.0
        self._shares: tuple[float, ...] = ()
        self.train(self.training)

    @property
    def price(self) -> float:
        """The run-time knob: each width's score is lowered by `price` times its cost, as a share of the widest."""
        return self._price

    @price.setter
    def price(self, price: float) -> None:
        if not is_number(price) or not math.isfinite(price):
            raise ValueError(
                f"price={price!r} must be a finite number, such as price_for finds where a cost can be kept; 0 is the "
                "gate as it was trained"
            )
        self._price = float(price)

    @classmethod
    def at(
        cls,
        net: nn.Module,
        before: str,
        widths: Sequence[Width],
        example: Any,
        *,
        stem_width: Width | None = None,
        reduction: float = 0.25,
        smallest_group: SmallestGroup = 1,
    ) -> Gated:
        """A slimmable network with a new gate before one of its modules.

        The stem, with all that is tied to its channels, has `stem_width`; the other layers have the width chosen. With
        universal BatchNorm calibrate these plans first: `slimlib.calibrate(net, batches, slimlib.gated_plans(...))`.

        Args:
            before: the name of a module at which the network is a chain, such as "features.8".
            example: an input, from which the channels of the features are read.

        Raises:
            ValueError: the network is no chain there, such as in the middle of a residual block.
        """
        stem, tail = cut(net, before)
        whole = next(part for part in slimmable_parts(net))
        plan = gated_plans(net, before, widths, stem_width=stem_width)[0]
        with torch.no_grad(), at_width(net, plan), in_eval(net):
            features = PartOf(stem, whole)(*arguments(net, example))
        gate = SlimmingGate(features.shape[1], len(widths), reduction=reduction).to(features)
        return cls(stem, tail, gate, widths, stem_width=stem_width, smallest_group=smallest_group)

    def train(self, mode: bool = True) -> Gated:
        """Only the gate goes into training mode."""
        super().train(mode)
        for part in (self.stem, self.tail):
            part.train(False)
        return self

    def forward(self, *args: Any) -> Any:
        """The outputs of a batch; in eval mode each sample at the width that its highest score is of."""
        return self.mixture(*args)[0] if self.training else self.answer(*args).output

    def answer(self, *args: Any) -> Answer:
        """The outputs, and the width of each sample, by the highest scores."""
        features, scores = self.scores(*args)
        if self.price and not self._shares:
            self._note_shares(self.macs(*args))
        chosen = self._chosen(scores, self.price)
        groups = self._groups(features, chosen, self.smallest_group)
        ran = {sample: self.widths[self.tail_widths.index(g.width)] for g in groups for sample in g.samples}
        output = run_groups(self.tail, (features,), groups)
        return Answer(output, tuple(ran[sample] for sample in range(len(chosen))))

    def scores(self, *args: Any) -> tuple[Tensor, Tensor]:
        """Features [N, C, ...] as the tail gets them, and the gate's scores [N, choices]."""
        samples_in(args)
        found: tuple[Tensor, Tensor] = self.gate(self.stem_features(*args))
        return found

    def stem_features(self, *args: Any) -> Tensor:
        """What the gate sees, [N, C, ...]."""
        with at_width(self.stem, self.stem_width) if self._stem_slims() else nullcontext():
            features: Tensor = self.stem(*args)
        return features

    def _groups(self, features: Tensor, chosen: Sequence[int], smallest: SmallestGroup) -> list[Group]:
        if not chosen:  # the network may be at a width that does not go with these features
            return [Group(self.tail_widths[0], ())]
        return plan_groups(self.tail, (features,), [self.tail_widths[choice] for choice in chosen], smallest)

    def mixture(self, *args: Any) -> tuple[Any, Tensor, Tensor, list[Any]]:
        """For training: outputs at random choices, whose gradient reaches the scores; choices; scores; all outputs.

        Each sample's output is that of its choice, with gradients of the features; how the others would have changed
        it reaches the scores by the straight-through choice, for which they are computed without gradients.
        """
        features, scores = self.scores(*args)
        choices = one_hot_choice(scores)  # [N, K]
        groups = self._groups(features, choices.argmax(1).tolist(), 1)
        chosen = run_groups(self.tail, (features,), groups)
        others = self.at_each_width(features.detach())
        fixed = [tensors(output) for output in others]
        parts = iter(range(len(fixed[0])))

        def mixed(own: Tensor) -> Tensor:
            place = next(parts)
            weights = choices.reshape(*choices.shape, *[1] * (own.dim() - 1))  # [N, K, ...]
            through = sum(weights[:, k] * fixed[k][place] for k in range(len(fixed)))
            return own + through - through.detach()  # type: ignore[union-attr]

        return map_tensors(mixed, chosen), choices, scores, others

    @torch.no_grad()
    def at_each_width(self, features: Tensor) -> list[Any]:
        """The tail's outputs at every width."""
        outputs = []
        for width in self.tail_widths:
            with at_width(self.tail, width):
                outputs.append(self.tail(features))
        return outputs

    def macs(self, *args: Any) -> list[int]:
        """Multiply-adds of one sample at each width, stem and gate included."""
        with torch.no_grad():
            features = self.stem_features(*take(args, slice(0, 1)))
        fixed = macs_at(self.gate, (features,), 1.0)
        fixed += macs_at(self.stem, args, self.stem_width if self._stem_slims() else 1.0)
        return [fixed + macs_at(self.tail, (features,), width) for width in self.tail_widths]

    @torch.no_grad()
    def price_for(self, batches: Iterable[Any], macs: float, example: Any) -> float | None:
        """The lowest price by which a sample costs no more multiply-adds, on average over held-out inputs.

        It is below 0 where the gate as it was trained costs less. None: even the narrowest costs more.

        Args:
            batches: inputs that neither network nor gate has learned from.
            macs: the most that a sample may cost on average.
            example: an input, for counting.

        Raises:
            ValueError: there is no batch.
        """
        return self.price_finder(batches, self.macs(*(example if isinstance(example, tuple) else (example,))))(macs)

    @torch.no_grad()
    def price_finder(self, batches: Iterable[Any], costs: Sequence[int]) -> Callable[[float], float | None]:
        """From a mean cost to its price, as `price_for`; inputs are scored once for all.

        Args:
            costs: `macs` of an input.
        """
        self._note_shares(costs)
        check_batches("batches", batches)
        given = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
        if not given:
            raise ValueError("a price is found on held-out inputs, and there is no batch")
        scores = torch.cat([self.scores(*args)[1] for args in given])
        dearest = 2 * max(1.0, float(scores.amax() - scores.amin())) / min(b - a for a, b in pairwise(self._shares))

        def spent(price: float) -> float:
            return sum(costs[choice] for choice in self._chosen(scores, price)) / len(scores)

        def price_for(macs: float) -> float | None:
            if costs[0] > macs:
                return None
            low, high = -dearest, dearest  # all samples at the widest, and at the narrowest
            if spent(low) <= macs:
                return low
            for _ in range(50):
                middle = (low + high) / 2
                low, high = (low, middle) if spent(middle) <= macs else (middle, high)
            return high

        return price_for

    def _note_shares(self, costs: Sequence[int]) -> None:
        self._shares = tuple(cost / costs[-1] for cost in costs)

    def _chosen(self, scores: Tensor, price: float) -> list[int]:
        if price:
            scores = scores - price * scores.new_tensor(self._shares)
        return scores.argmax(1).tolist()

    def freeze(self) -> Gated:
        """A snapshot that serves fast: stem and tail frozen (see `slimlib.freeze`), the gate copied, in eval mode."""
        made = copy.copy(self)
        made._modules = dict(self._modules)
        made.gate = copy.deepcopy(self.gate).eval().requires_grad_(False)
        made.stem = frozen(self.stem, [self.stem_width]) if self._stem_slims() else copy.deepcopy(self.stem).eval()
        made.tail = frozen(self.tail, list(dict.fromkeys(self.tail_widths)))
        made.training = False
        return made

    def _stem_slims(self) -> bool:
        return any(module.__dict__.get("slim") is not None for module in self.stem.modules())


def gated_plans(
    net: nn.Module, before: str, widths: Sequence[Width], *, stem_width: Width | None = None
) -> list[Width]:
    """The plans at which a network with a gate before a module runs: calibrate BatchNorm for these."""
    stem, tail = cut(net, before)
    whole = owner_of(tail)
    assert whole is not None
    whole.check_all(widths)
    return list(plans_of(whole, stem, widths[0] if stem_width is None else stem_width, tuple(widths)))


def frozen(part: nn.Module, widths: Sequence[Width]) -> nn.Module:
    """A slimmable network, a part of one, or a module that holds one, with the network frozen at some widths."""
    if not isinstance(part, PartOf):
        return freeze(part, widths)
    whole = part.__dict__["slim"]
    nets = {}
    for width in widths:
        plain = prepared(extract(whole.net(), width), ())
        of_plain = dict(plain.named_modules())
        own = {id(module): of_plain[name] for name, module in whole.net().named_modules()}
        nets[width] = copy.deepcopy(part.part, own)  # containers are copied, and hold the plain modules
        for module in nets[width].modules():
            module.__dict__.setdefault("frozen_names", ())
    share_equal(nets)
    return FrozenNetwork(nets, {width: whole.channels_at(width) for width in widths})
