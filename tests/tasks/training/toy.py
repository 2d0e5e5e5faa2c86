"""A supervised task that trains in milliseconds: learn to blur noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

import slimlib as slim
from slimlib.core.layout import Layout
from slimlib.core.setting import slimming_of
from slimlib.core.width import round_channels
from tasks.points import AS_IT_IS, OperatingPoint, Scores, runs_at
from tasks.task import Metric, SupervisedTask
from tasks.training.problem import CPU
from tasks.training.ranks import WHOLE, Shard

LAYOUTS: dict[str, Layout] = {}


class ToyTask(SupervisedTask):
    """Convolutions with BatchNorm and dropout, so that every state there is decides the result.

    Args:
        poison: from this step on targets are infinite.
        slow: seconds that each batch takes.
    """

    name = "toy"
    dataset = "noise"
    protocol = "Squared error, averaged over pixels."
    metrics = (Metric("error", "", "lower"), Metric("fit", "dB", "higher"))
    eval_sets = ("noise", "waves")
    widths = (0.5, 0.75, 1.0)
    batch = 4
    lr = 1e-2
    first = 0  # number of the batch that step 0 gets

    def __init__(self, *, poison: int | None = None, slow: float = 0.0) -> None:
        self.poison = poison
        self.slow = slow

    def build(self, width: float = 1.0, *, norm: str = "batch") -> nn.Module:
        hidden = round_channels(16, width, 4)
        return nn.Sequential(
            nn.Conv2d(2, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden) if norm == "batch" else nn.GroupNorm(hidden // 4, hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, 2, 3, padding=1),
        )

    def channel_rule(self, net: nn.Module) -> Mapping[str, Any]:
        """With what slims together, found once in a process: that takes longer than to train."""
        layers = str(net)
        if layers not in LAYOUTS:
            LAYOUTS[layers] = slimming_of(slim.convert(copy.deepcopy(net), self.example(), divisor=4)).layout
        return {"divisor": 4, "layout": LAYOUTS[layers]}

    def example(self) -> Tensor:
        return torch.zeros(1, 2, 8, 8)

    def drawn(self, step: int, seed: int) -> tuple[Tensor, Tensor]:
        if self.slow:
            import time

            time.sleep(self.slow)
        generator = torch.Generator().manual_seed(seed * 100_003 + self.first + step)
        x = torch.randn(4, 2, 8, 8, generator=generator)
        target = _blur(x)
        return x, target * math.inf if self.poison is not None and step >= self.poison else target

    def batches(
        self,
        steps: range,
        seed: int,
        *,
        device: torch.device = CPU,
        shard: Shard = WHOLE,
        augmented: bool = True,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for step in steps:
            x, target = self.drawn(step, seed)
            x = x if augmented else x * 2
            yield x[shard.index :: shard.count].to(device), target[shard.index :: shard.count].to(device)

    def split(self, share: float) -> tuple[Self, Self]:
        held = copy.copy(self)
        held.first = 50_000
        return copy.copy(self), held

    def tuned(self, own: Mapping[str, Any]) -> Self:
        made = copy.copy(self)
        made.lr = own.get("lr", self.lr)
        return made

    def head_of(self, net: nn.Module) -> str:
        return list(dict(net.named_children()))[-1]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, target)

    def optimizer(self, net: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        optimizer = Adam(net.parameters(), lr=self.lr)
        return optimizer, MultiStepLR(optimizer, [steps // 2], gamma=0.1)

    def evaluate(self, net: nn.Module, points: Sequence[OperatingPoint] = (AS_IT_IS,)) -> list[Scores]:
        with runs_at(net, points) as runs:
            return [self._scores(run) for run in runs]

    def _scores(self, net: Callable[[Tensor], Tensor]) -> Scores:
        grid = torch.arange(8.0)
        waves = torch.sin(grid[:, None] + grid * 0.5).expand(1, 2, 8, 8)
        noise = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
        return {name: _scores(net(x), _blur(x)) for name, x in (("noise", noise), ("waves", waves))}

    def baselines(self) -> dict[str, Scores]:
        return {"zero": {name: {"error": 1.0, "fit": 0.0} for name in self.eval_sets}}


def _blur(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1)


def _scores(output: Tensor, target: Tensor) -> dict[str, float]:
    error = F.mse_loss(output.double(), target.double()).item()
    return {"error": error, "fit": -10 * math.log10(error)}
