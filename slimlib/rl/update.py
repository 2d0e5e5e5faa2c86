"""An update of a slimmable policy: a step on the gradients of several widths, and what the steps tell in the log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimlib.core.width import Width
from slimlib.training.rule import Rule


@dataclass(frozen=True)
class Update:
    """A step of an optimizer on the gradients of all widths that a rule draws.

    Attributes:
        rule, policy, args, loss, forward: see `Rule.backward`.
        parameters: that the step is of.
        limit: of the norm of the gradient; None: none.
    """

    rule: Rule
    policy: Any
    args: tuple[Any, ...]
    loss: Callable[..., Tensor]
    forward: Callable[..., Any]
    parameters: list[nn.Parameter]
    limit: float | None = None

    def run(self, before_each: Callable[[int], None] | None = None) -> dict[Width, Tensor]:
        """Run every width backward; `before_each` is called before each, with the number of those before it."""
        count = 0

        def counted(*args: Any) -> Any:
            nonlocal count
            if before_each is not None and torch.is_grad_enabled():  # not where a teacher looks
                before_each(count)
                count += 1
            return self.forward(*args)

        return self.rule.backward(self.policy, self.args, self.loss, forward=counted)

    def clip(self) -> None:
        """Limit the norm of the gradient."""
        if self.limit is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.limit)


class UpdateLog:
    """Means of what the steps of an update tell of themselves, for the log."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._values[name].append(value.item())

    def restart(self, name: str) -> None:
        """Forget what was added so far: stable-baselines3 logs some of the last epoch, or the last step, alone."""
        self._values[name] = []

    def last(self, name: str) -> float:
        """What was added last."""
        return self._values[name][-1]

    def write_to(self, logger: Any, names: Mapping[str, str]) -> None:
        """Record the means of what was added, under the names that stable-baselines3 gives them."""
        for name, shown in names.items():
            if self._values[name]:
                logger.record(f"train/{shown}", np.mean(self._values[name]))
