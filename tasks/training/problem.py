"""What the training loop asks of a task: data, a network, a loss, and how the network is judged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import slimlib as slim
from slimlib.core.norms import NormName
from slimlib.core.width import Widths
from tasks.points import AS_IT_IS, OperatingPoint, Scores
from tasks.training.ranks import WHOLE, Shard

CPU = torch.device("cpu")
HELD_OUT = 0.1
"""Share of the training data on which plans, thresholds, prices of gates and hyperparameters are chosen; no network
that is trained for them learns from it, so that recipes which choose different things can share one."""


class Problem(Protocol):
    """A data set, a network and how to judge it.

    Attributes:
        widths: which are evaluated.
        batch: items of a whole batch.
    """

    widths: tuple[float, ...]
    batch: int

    @abstractmethod
    def build(self, width: float = 1.0, *, norm: str = "batch") -> nn.Module:
        """A dense network with the channels of `width`, freshly initialised from torch's global generator.

        Raises:
            ValueError: the task's networks have no such normalisation ("batch": as they come, or "group").
        """

    @abstractmethod
    def channel_rule(self, net: nn.Module) -> Mapping[str, Any]:
        """How the channels of a network that `build` made are rounded: arguments of `slimlib.convert`."""

    def convert(
        self, net: nn.Module, widths: Widths, norm: NormName, *, bands: int | None = None, keep: Sequence[str] = ()
    ) -> nn.Module:
        """Make a network that `build` made slimmable, in place.

        Args:
            net: what `build` made.
            widths: that it may be set to.
            norm: what becomes of BatchNorm.
            bands: of widths that have a last layer of their own.
            keep: modules whose outputs stay full, beside those of `channel_rule`.
        """
        heads = {} if bands is None else {self.head_of(net): bands}
        rule = {"keep": (), **self.channel_rule(net)}
        rule["keep"] = (*rule["keep"], *keep)
        return slim.convert(net, self.example(), widths=widths, norm=norm, heads=heads, **rule)

    def head_of(self, net: nn.Module) -> str:
        """The name of the last layer of a network of the task.

        Raises:
            ValueError: its networks have no single one.
        """
        raise ValueError(f"{type(self).__name__} does not say which layer of its networks is the last")

    @abstractmethod
    def example(self) -> Any:
        """An input that the cost is counted for, batch size one: a tensor, or the tuple of the network's arguments."""

    @abstractmethod
    def batches(
        self, steps: range, seed: int, *, device: torch.device = CPU, shard: Shard = WHOLE, augmented: bool = True
    ) -> Iterator[tuple[Any, Any]]:
        """Input and target of each of the training steps, on the device.

        The input is a tensor, or the tuple of the network's arguments in training; the target is whatever `loss`
        takes. Each is a pure function of (step, seed), so that a run resumes exactly; a shard of it holds those
        items of the whole batch. `augmented` False: the inputs as they are, for statistics.
        """

    def split(self, share: float) -> tuple[Self, Self]:
        """The same problem without a share of the training data, and with that share alone; both evaluate alike.

        Raises:
            ValueError: its data cannot be shared out.
        """
        raise ValueError(f"{type(self).__name__} does not say how a part of its training data is held out")

    def tuned(self, own: Mapping[str, Any]) -> Self:
        """The same problem with hyperparameters of a recipe's own.

        Raises:
            ValueError: one that it does not have.
        """
        if own:
            raise ValueError(f"{type(self).__name__} does not say which of its hyperparameters can be tuned")
        return self

    def gate_before(self, net: nn.Module) -> str:
        """The name of the module before which a network of the task has a gate, if it has one.

        Raises:
            ValueError: its networks have none.
        """
        raise ValueError(f"{type(self).__name__} does not say where its networks may have a gate")

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """What the network learns from the data, a scalar: of its output in training, and the target of the batch."""

    @abstractmethod
    def optimizer(self, net: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        """The optimizer, and its schedule over `steps` steps."""

    @abstractmethod
    def evaluate(self, net: nn.Module, points: Sequence[OperatingPoint] = (AS_IT_IS,)) -> list[Scores]:
        """Scores of the network, in eval mode, at each of the operating points. The data are read once for all."""
