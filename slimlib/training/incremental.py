"""Incremental training: narrow switches first, one after another, what they compute with left as it is.

The parameters that a switch adds learn together with those of the narrower ones, which no longer move. So each switch
does for good what it did after its own stage, and the wider ones have to build on it.

Source: Yu et al. 2019 (S-Nets), sec. 3.2, where it falls far behind individual networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slimlib.core.setting import in_use, slimming_of
from slimlib.core.width import Switches, Width
from slimlib.training.rule import Rule
from slimlib.training.step import Step

Share = Literal["whole", "equal"]


class Incremental(Rule):
    """One switch a stage, from narrow to wide; each stage trains what its switch adds to the narrower ones.

    Each stage has an optimizer of its own, and a schedule of the learning rate::

        rule = Incremental(slim.Switches(0.25, 0.5, 1.0))
        for stage in range(len(rule.ends(steps))):
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
            with rule.stage(stage, net, optimizer):
                for x, y in batches:
                    optimizer.zero_grad()
                    rule.backward(net, x, lambda out: F.cross_entropy(out, y))
                    optimizer.step()

    Args:
        widths: the switches of the network.
        share: of the steps that each stage has: "whole", as many as an individual network, so that a training costs
            what individual networks of all switches cost; "equal", an equal share of them, which costs their mean.

    Raises:
        ValueError: `widths` are no switches, or there is no such share.

    Source: Yu et al. 2019 (S-Nets), sec. 3.2.
    """

    trains_largest = False

    def __init__(self, widths: Switches, *, share: Share = "whole") -> None:
        if not isinstance(widths, Switches):
            raise ValueError(f"Incremental trains a list of switches, for example Switches(0.5, 1.0); got {widths!r}")
        if share not in get_args(Share):
            raise ValueError(f"share={share!r} of the steps that a stage has must be whole or equal")
        super().__init__(widths)
        self.switches, self.share, self.number = widths.widths, share, 0

    def draw(self, step: Step | None = None) -> list[Width]:
        return [self.switches[self.number]]

    def ends(self, steps: int) -> list[int]:
        count = len(self.switches)
        if self.share == "whole":
            return [steps * (number + 1) for number in range(count)]
        if steps < count:
            raise ValueError(f"{steps} steps are too few for {count} stages; each needs one at least")
        return [steps * (number + 1) // count for number in range(count)]

    @contextmanager
    def stage(self, number: int, net: nn.Module, optimizer: Optimizer) -> Iterator[None]:
        if not 0 <= number < len(self.switches):
            raise ValueError(
                f"there is no stage {number!r}; {self.switches} have the stages 0 to {len(self.switches) - 1}"
            )
        self.number = number
        with only_added(net, self.switches[number], self.switches[:number], optimizer):
            yield

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"number": self.number}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.number = int(state["number"])


@contextmanager
def only_added(net: nn.Module, width: Width, narrower: tuple[Width, ...], optimizer: Optimizer) -> Iterator[None]:
    """Within, steps of the optimizer move only what `width` computes with and none of the `narrower` do.

    Everything else has the very same values after each step: also where weight decay or momentum would move it.

    Raises:
        ValueError: the optimizer is of another network, or this one keeps one set of BatchNorm statistics for all
            widths, which every width moves.
    """
    if not slimming_of(net).norm.has_statistics_of_widths:
        raise ValueError("norm 'shared' has statistics that every width moves; use 'switchable' or 'universal'")
    added = in_use(net, width)
    for other in narrower:
        used = in_use(net, other)
        added = {parameter: own & ~used[parameter] if parameter in used else own for parameter, own in added.items()}
    if not any(parameter in added for group in optimizer.param_groups for parameter in group["params"]):
        raise ValueError(f"this {type(optimizer).__name__} trains none of the parameters that the width {width} adds")
    partly = [parameter for parameter in net.parameters() if parameter not in added or not added[parameter].all()]
    before: list[Tensor] = []

    def keep(*_: Any) -> None:
        before[:] = [parameter.detach().clone() for parameter in partly]

    @torch.no_grad()
    def put_back(*_: Any) -> None:
        for parameter, value in zip(partly, before, strict=True):
            parameter.copy_(torch.where(added[parameter], parameter, value) if parameter in added else value)

    hooks = optimizer.register_step_pre_hook(keep), optimizer.register_step_post_hook(put_back)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
