"""How the full width learns as fast as alone, although the narrow widths that are trained with it share its weights.

Narrow policies that learn from the full one are pushed towards its probabilities. Their push goes into weights that are
also its own, and so makes the full policy surer than its returns have made it: what it happens to prefer early it soon
does always, and explores no more. A step of all narrow widths that leaves alone how sure the full policy is does not
have this effect, and costs next to nothing: the gradient of the entropy is taken in the last layer alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.core.setting import set_width
from slimlib.core.width import Width
from slimlib.rl.update import Update
from slimlib.training.sandwich import SingleWidth


class Stability:
    """What is done to the gradients of the widths of an update; here nothing.

    Args:
        model: the algorithm.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def backward(self, update: Update) -> dict[Width, Tensor]:
        """Run the rule backward, so that the parameters have the gradient to step by."""
        losses = update.run()
        update.clip()
        return losses

    def begin(self) -> None:
        """An update begins: several steps on one rollout."""

    def old_log_prob(self, data: Any, actions: Tensor, width: Width) -> Tensor:
        """What a width's probability of the actions is compared with, in PPO: that of the width that acted. [N]"""
        old: Tensor = data.old_log_prob
        return old


class Certainty(Stability):
    """The narrow widths do not make the full policy surer, nor its actions more extreme.

    Of the sum of their gradients in the layer that makes the actions that part is taken out by which would fall, in
    the mean over the batch, the entropy of the full policy; or, of actions that are normally distributed,
    -(mean / deviation)^2 / 2, which says how near they are to the middle, and the logarithm of the deviation where a
    layer makes that.
    """

    def backward(self, update: Update) -> dict[Width, Tensor]:
        kept: list[_Kept] = []

        def forward(*args: Any) -> Any:
            output = update.forward(*args)
            if torch.is_grad_enabled() and self.model.slimming.width == update.rule.widths.largest:
                for layer, uncertain in self.model.uncertainties(output):
                    parameters = [p for p in layer.parameters() if p.requires_grad]
                    direction = torch.autograd.grad(uncertain, parameters, retain_graph=True, allow_unused=True)
                    if all(d is not None for d in direction):
                        kept.append(_Kept(parameters, direction))
            return output

        def before_each(count: int) -> None:
            if count == 1:
                for each in kept:
                    each.own = _product(each.parameters, each.direction)

        losses = replace(update, forward=forward).run(before_each)
        for each in kept:
            if each.own is not None:
                falls = torch.clamp(_product(each.parameters, each.direction) - each.own, min=0)
                _take_out(each.parameters, each.direction, falls)
        update.clip()
        return losses


@dataclass
class _Kept:
    """What must not fall, by its gradient; `own` is what the gradient of the full width has in that direction."""

    parameters: list[nn.Parameter]
    direction: tuple[Tensor, ...]
    own: Tensor | None = None


class ClippedEach(Stability):
    """The gradient of each width is clipped by itself."""

    def backward(self, update: Update) -> dict[Width, Tensor]:
        total: list[Tensor | None] = []

        def take(count: int) -> None:
            if not count:
                return
            update.clip()
            taken = update.gradients()
            total[:] = taken if not total else [_sum(a, b) for a, b in zip(total, taken, strict=True)]
            for parameter in update.parameters:
                if parameter.grad is not None:
                    parameter.grad.zero_()

        losses = update.run(take)
        take(len(losses))
        for parameter, gradient in zip(update.parameters, total, strict=True):
            parameter.grad = gradient
        return losses


class WithoutConflict(Stability):
    """From the sum of the narrow widths' gradients what points against that of the full width is taken out.

    Source: Yu et al. 2020 (Gradient Surgery for Multi-Task Learning), algorithm 1, for two tasks and one direction.
    """

    def backward(self, update: Update) -> dict[Width, Tensor]:
        full: list[Tensor | None] = []

        def take(count: int) -> None:
            if count == 1:
                full.extend(update.gradients())

        losses = update.run(take)
        known = [(p, f) for p, f in zip(update.parameters, full, strict=False) if f is not None]
        if known:
            parameters, direction = [p for p, _ in known], [f for _, f in known]
            own = _product_of(direction, direction)
            _take_out(parameters, direction, torch.clamp(_product(parameters, direction) - own, max=0))
        update.clip()
        return losses


class Later(Stability):
    """The narrow widths begin to learn after half of the training."""

    start = 0.5

    def backward(self, update: Update) -> dict[Width, Tensor]:
        early = 1 - self.model._current_progress_remaining < self.start
        return super().backward(replace(update, rule=SingleWidth(update.rule.widths.largest)) if early else update)


class OwnProbabilities(Stability):
    """PPO's ratio is 1 for every width when an update begins: each is compared with itself."""

    def begin(self) -> None:
        self.before = copy.deepcopy(self.model.policy)

    @torch.no_grad()
    def old_log_prob(self, data: Any, actions: Tensor, width: Width) -> Tensor:
        set_width(self.before, width)
        old: Tensor = self.before.evaluate_actions(data.observations, actions)[1]
        return old


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a + b


def _product(parameters: Sequence[nn.Parameter], direction: Sequence[Tensor]) -> Tensor:
    """Of the gradients and a direction: a scalar."""
    return _product_of([p.grad for p in parameters if p.grad is not None], direction)


def _product_of(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.sum(x * y) for x, y in zip(a, b, strict=True)]).sum()


def _take_out(parameters: Sequence[nn.Parameter], direction: Sequence[Tensor], product: Tensor) -> None:
    """Of the gradients, the part along a direction that has this product with it."""
    share = product / (_product_of(direction, direction) + 1e-12)
    for parameter, along in zip(parameters, direction, strict=True):
        assert parameter.grad is not None
        parameter.grad.sub_(along * share)


STABILITY: Mapping[str, type[Stability]] = {
    "none": Stability,
    "certainty": Certainty,
    "clip": ClippedEach,
    "conflict": WithoutConflict,
    "late": Later,
    "ratio": OwnProbabilities,
}
"""By the names that settings use."""
