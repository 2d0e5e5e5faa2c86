"""How a gate learns: from the loss through its choices, from who is easy and who is hard, and from what they cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slimlib.core.width import check_is, is_number
from slimlib.dynamic.gated import Gated
from slimlib.dynamic.outcomes import is_right


class GateTraining:
    """The losses of a gate, on a frozen slimmable network.

    Sandwich gate sparsification: a sample that the narrowest width gets right belongs there, any other to the widest;
    cross-entropy of the scores with that. The loss of the task reaches the scores by straight-through choices. The cost
    penalty is the square of the mean multiply-adds, in units of `unit`.

    Args:
        gated: its stem and tail are frozen: their parameters no longer require gradients.
        example: an input, for counting multiply-adds.
        penalty: weight of the cost; unit: multiply-adds that count as 1 there. As published .5 and 1e9.
        right: a function of output and target that says which samples are right, [N]; by default whether the likeliest
            class is the target.

    Raises:
        ValueError: a penalty below 0, or a unit that is not above 0.

    Source: Li et al. 2021 (DS-Net), sec. 3.4, eq. 8 to 11, and their published code.
    """

    def __init__(
        self,
        gated: Gated,
        example: Any,
        *,
        penalty: float = 0.5,
        unit: float = 1e9,
        right: Callable[[Any, Any], Tensor] = is_right,
    ) -> None:
        numbers = is_number(penalty) and is_number(unit)
        if not numbers or not 0 <= penalty < float("inf") or not 0 < unit < float("inf"):
            raise ValueError(f"penalty={penalty!r} must be a number from 0, and unit={unit!r} one above 0")
        check_is(Gated, "a slimlib.Gated", gated=gated)
        check_is(Callable, "a function of output and target", right=right)
        self.gated, self.penalty, self.unit, self.right = gated, penalty, unit, right
        self.macs = gated.macs(*(example if isinstance(example, tuple) else (example,)))
        for part in (gated.stem, gated.tail):
            part.requires_grad_(False)

    def backward(self, inputs: Any, target: Any, loss: Callable[[Any, Any], Tensor]) -> dict[str, Tensor]:
        """Add the gradients of one batch to the gate's parameters.

        Args:
            inputs: a tensor, or the tuple of the stem's arguments.
            loss: of the task, a function of output and target.

        Returns:
            "task", "gate" and "cost", the three losses, and "macs", the mean multiply-adds of the choices.
        """
        self.gated.train()
        output, choices, scores, others = self.gated.mixture(*(inputs if isinstance(inputs, tuple) else (inputs,)))
        easy = self.right(others[0], target).bool()
        wanted = torch.where(easy, 0, len(others) - 1)
        macs = (choices @ choices.new_tensor(self.macs)).mean()
        losses = {
            "task": loss(output, target),
            "gate": F.cross_entropy(scores, wanted),
            "cost": self.penalty * (macs / self.unit) ** 2,
        }
        torch.stack(list(losses.values())).sum().backward()
        return {name: value.detach() for name, value in (losses | {"macs": macs}).items()}
