"""How the full width learns as fast as alone, although the narrow widths that are trained with it share its weights.

Narrow policies that learn from the full one are pushed towards its probabilities. Their push goes into weights that are
also its own, and so makes the full policy surer than its returns have made it: what it happens to prefer early it soon
does always, and explores no more. A step of all narrow widths that leaves alone how sure the full policy is does not
have this effect, and costs next to nothing: the gradient of the entropy is taken in the last layer alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
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
        held: list[_Along] = []

        def forward(*args: Any) -> Any:
            output = update.forward(*args)
            if torch.is_grad_enabled() and self.model.slimming.width == update.rule.widths.largest:
                for layer, uncertain in self.model.uncertainties(output):
                    parameters = [p for p in layer.parameters() if p.requires_grad]
                    if not parameters:
                        continue
                    direction = torch.autograd.grad(uncertain, parameters, retain_graph=True, allow_unused=True)
                    if all(d is not None for d in direction):
                        held.append(_Along(parameters, direction))
            return output

        def before_each(count: int) -> None:
            if count == 1:
                for along in held:
                    along.full = along.product()

        losses = replace(update, forward=forward).run(before_each)
        for along in held:
            along.take_out(lambda of_narrow: of_narrow.clamp(min=0))
        update.clip()
        return losses


class ClippedEach(Stability):
    """The gradient of each width is clipped by itself."""

    def backward(self, update: Update) -> dict[Width, Tensor]:
        total: dict[nn.Parameter, Tensor] = {}

        def take(count: int) -> None:
            if count:
                update.clip()
            for parameter in update.parameters:
                if parameter.grad is not None:
                    total[parameter] = total.get(parameter, 0) + parameter.grad
                    parameter.grad = torch.zeros_like(parameter.grad)

        losses = update.run(take)
        take(len(losses))
        for parameter, gradient in total.items():
            parameter.grad = gradient
        return losses


class WithoutConflict(Stability):
    """From the sum of the narrow widths' gradients what points against that of the full width is taken out.

    Source: Yu et al. 2020 (Gradient Surgery for Multi-Task Learning), algorithm 1, for two tasks and one direction.
    """

    def backward(self, update: Update) -> dict[Width, Tensor]:
        held: list[_Along] = []

        def before_each(count: int) -> None:
            if count == 1:
                known = [p for p in update.parameters if p.grad is not None]
                if known:
                    held.append(_Along(known, [p.grad.clone() for p in known if p.grad is not None]))
                    held[0].full = held[0].product()

        losses = update.run(before_each)
        for along in held:
            along.take_out(lambda of_narrow: of_narrow.clamp(max=0))
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


@dataclass
class _Along:
    """Gradients, seen along a direction; `full` is the product of the full width's with it."""

    parameters: Sequence[nn.Parameter]
    direction: Sequence[Tensor]
    full: Tensor | None = None

    def product(self) -> Tensor:
        """Of the gradients so far and the direction: a scalar."""
        pairs = zip(self.parameters, self.direction, strict=True)
        return torch.stack([torch.sum(d.new_zeros(()) if p.grad is None else p.grad * d) for p, d in pairs]).sum()

    def take_out(self, part: Callable[[Tensor], Tensor]) -> None:
        """Of the gradients the part along the direction; `part`: of the product of the narrow widths' with it."""
        if self.full is None:  # no narrow width was trained
            return
        length = torch.stack([torch.sum(d * d) for d in self.direction]).sum()
        share = part(self.product() - self.full) / (length + 1e-12)
        for parameter, along in zip(self.parameters, self.direction, strict=True):
            if parameter.grad is not None:
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
