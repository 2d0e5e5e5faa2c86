"""Training rules: which widths one step trains, and what each of them learns from.

Every rule draws widths with its own generator, so that the draws do not depend on anything else
that is random, are the same on every rank, and go on where a checkpoint left off.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.utils._pytree import tree_map_only

from slimlib.core.setting import current_width, set_width
from slimlib.core.width import Switches, Width, WidthRange, Widths, by_size
from slimlib.training.distillation import Distillation
from slimlib.training.gradients import adding_in_place


class Rule(ABC):
    """One training step of a slimmable network: draw the widths, and run each of them backward.

    Attributes:
        distill: what every width but the largest learns from, given (its output, the detached output
            of the largest width); None: all learn from the data.
    """

    def __init__(self, *, distill: Distillation | None, seed: int) -> None:
        self.distill = distill
        self._generator = torch.Generator().manual_seed(seed)

    @abstractmethod
    def draw(self) -> list[Width]:
        """The widths of the next step, all different, largest first."""

    def backward(
        self,
        net: nn.Module,
        x: Tensor | tuple[Any, ...],
        loss: Callable[[Any], Tensor],
        *,
        scaler: GradScaler | None = None,
        autocast: torch.dtype | None = None,
        forward: Callable[..., Any] | None = None,
    ) -> dict[Width, Tensor]:
        """Draw widths and add the gradient of the sum of their losses to the parameters' `.grad`.

        Each width runs backward as soon as its loss is ready, so the memory is that of one pass.
        The network is left at the width it was set to. In DistributedDataParallel the gradients are
        sent once, with the last pass; with find_unused_parameters=True (switchable BatchNorm, whose
        switches have private parameters) with every pass.

        Args:
            net: a slimmable network.
            x: its input, or the tuple of its arguments.
            loss: network output -> scalar; learns from the data.
            scaler: scales each loss before its backward pass, for float16.
            autocast: the network computes in this lower precision (torch.bfloat16, torch.float16) where
                torch.autocast does; the losses are of its outputs in float32.
            forward: what computes the output from `x` with the parts of `net`, where its own forward does not.

        Returns:
            The detached loss of each width, largest first; with `distill` all but the largest's are
            distillation losses.
        """
        args = x if isinstance(x, tuple) else (x,)
        compute = net if forward is None else forward
        widths = self.draw()
        before = current_width(net)
        teacher: Any = None
        losses: dict[Width, Tensor] = {}
        try:
            for position, width in enumerate(widths):
                set_width(net, width)
                stay_local = _gradients_stay_local(net, last=position == len(widths) - 1)
                with stay_local, adding_in_place(net) as run_backward:
                    output = compute(*args) if autocast is None else in_lower_precision(net, args, autocast, compute)
                    learns_from_data = self.distill is None or position == 0
                    value = loss(output) if learns_from_data else self.distill(output, teacher)  # type: ignore[misc]
                    if learns_from_data and self.distill is not None:
                        teacher = tree_map_only(Tensor, Tensor.detach, output)
                    del output  # its graph goes with the backward pass, before the next width runs
                    run_backward(value if scaler is None else scaler.scale(value))
                losses[width] = value.detach()
        finally:
            set_width(net, before)
        return losses

    def state_dict(self) -> dict[str, list[int]]:
        """Where the draws are, as plain lists."""
        return {"generator": self._generator.get_state().tolist()}

    def load_state_dict(self, state: Mapping[str, list[int]]) -> None:
        """Go on drawing where `state_dict` was taken."""
        self._generator.set_state(torch.tensor(state["generator"], dtype=torch.uint8))


class SingleWidth(Rule):
    """Every step trains one width alone: ordinary training, for comparison."""

    def __init__(self, width: Width = 1.0) -> None:
        super().__init__(distill=None, seed=0)
        self.width = width

    def draw(self) -> list[Width]:
        return [self.width]


class EveryWidth(Rule):
    """Every step trains every switch.

    Args:
        widths: the switches of the network.
        distill: see `Rule`; None as published.

    Source: Yu et al. 2019 (S-Nets), algorithm 1.
    """

    def __init__(self, widths: Switches, *, distill: Distillation | None = None) -> None:
        if not isinstance(widths, Switches):
            raise ValueError(f"EveryWidth trains a list of switches, for example Switches(0.5, 1.0); got {widths!r}")
        super().__init__(distill=distill, seed=0)
        self.widths = widths

    def draw(self) -> list[Width]:
        return list(reversed(self.widths.widths))


class _Drawn(Rule):
    """Some fixed widths and, to make up the number of samples, random ones."""

    fewest = 2
    teaches = False  # the largest width is in every draw, so it can teach

    def __init__(self, widths: Widths, samples: int = 4, distill: Distillation | None = None, *, seed: int = 0) -> None:
        name = type(self).__name__
        if samples < self.fewest:
            raise ValueError(f"{name} needs at least {self.fewest} samples a step, not {samples}")
        if isinstance(widths, Switches) and samples > len(widths.widths):
            raise ValueError(f"{name} cannot draw {samples} different widths from the switches {widths}")
        if distill is not None and not self.teaches:
            raise ValueError(
                f"{name} cannot distil: the largest width, which teaches, is not in every step. "
                "Take Sandwich or LargestAndRandom, or distill=None."
            )
        super().__init__(distill=distill, seed=seed)
        self.widths = widths
        self.samples = samples

    @abstractmethod
    def fixed(self) -> list[Width]:
        """The widths that every step trains."""

    def draw(self) -> list[Width]:
        fixed = self.fixed()
        random = self._random(self.samples - len(fixed), without=fixed)
        return sorted({*fixed, *random}, key=by_size, reverse=True)

    def _random(self, count: int, *, without: list[Width]) -> list[Width]:
        if isinstance(self.widths, WidthRange):
            low, high = self.widths.smallest, self.widths.largest
            uniform = torch.rand(count, generator=self._generator, dtype=torch.float64)
            return [min(low + (high - low) * u, high) for u in uniform.tolist()]
        rest = [width for width in self.widths.widths if width not in without]
        order = torch.randperm(len(rest), generator=self._generator).tolist()
        return [rest[i] for i in order[:count]]


class Sandwich(_Drawn):
    """Every step trains the largest width, the smallest, and `samples` - 2 random ones between.

    What lies between is then bounded by the two, and does well though each of its widths is rarely
    trained. The rule to start with.

    Args:
        widths: a range, for a universally slimmable network, or switches.
        samples: widths a step, at least 2.
        distill: what every width but the largest learns from; None: the data.
        seed: of the random widths.

    Raises:
        ValueError: fewer than 2 samples, or more than there are switches.

    Source: Yu & Huang 2019 (US-Nets), the sandwich rule, algorithm 1.
    """

    teaches = True

    def fixed(self) -> list[Width]:
        return [self.widths.largest, self.widths.smallest]


class RandomWidths(_Drawn):
    """Every step trains `samples` random widths: what the sandwich rule is compared with.

    Source: Yu & Huang 2019 (US-Nets), ablation study of the sandwich rule.
    """

    fewest = 1

    def fixed(self) -> list[Width]:
        return []


class SmallestAndRandom(_Drawn):
    """Every step trains the smallest width and `samples` - 1 random ones, for comparison.

    Source: Yu & Huang 2019 (US-Nets), ablation study of the sandwich rule.
    """

    def fixed(self) -> list[Width]:
        return [self.widths.smallest]


class LargestAndRandom(_Drawn):
    """Every step trains the largest width and `samples` - 1 random ones, for comparison.

    Source: Yu & Huang 2019 (US-Nets), ablation study of the sandwich rule.
    """

    teaches = True

    def fixed(self) -> list[Width]:
        return [self.widths.largest]


DRAWING: Mapping[str, Callable[..., Rule]] = MappingProxyType(
    {
        "sandwich": Sandwich,
        "random": RandomWidths,
        "smallest-random": SmallestAndRandom,
        "largest-random": LargestAndRandom,
    }
)
"""The rules that draw a number of samples, by the names that settings use."""

RULES = (*DRAWING, "every", "largest")


def rule_named(name: str, widths: Widths, samples: int, distill: Distillation | None, *, seed: int) -> Rule:
    """The rule of one of these names; `every` and `largest` (plain training) take no samples.

    Raises:
        ValueError: what the rule itself raises.
    """
    if name == "largest":
        return SingleWidth(widths.largest)
    if name == "every":
        return EveryWidth(widths, distill=distill)  # type: ignore[arg-type]  # refuses a range
    return DRAWING[name](widths, samples, distill, seed=seed)


def in_lower_precision(
    net: nn.Module, args: tuple[Any, ...], dtype: torch.dtype, forward: Callable[..., Any] | None = None
) -> Any:
    """The output in float32 of a network that computes in `dtype` where torch.autocast does."""
    with torch.autocast(next(net.parameters()).device.type, dtype=dtype):
        output = (net if forward is None else forward)(*args)
    return tree_map_only(Tensor, lambda t: t.float() if t.dtype == dtype else t, output)


def _gradients_stay_local(net: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """For all but the last pass: DistributedDataParallel only adds gradients up, and sends them with the last."""
    no_sync = getattr(net, "no_sync", None)
    if last or no_sync is None or getattr(net, "find_unused_parameters", False):
        return nullcontext()
    context: AbstractContextManager[Any] = no_sync()
    return context
