"""How importance falls over channel order: of the weights, in training, and for the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

import slimlib as slim
from benchmarks.features.networks import slimmable
from slimlib.core.setting import slimming_of
from slimlib.core.slimming import Slimming
from slimlib.search.scores import channel_scores
from slimlib.search.weights import Weight, at_full_width, makers, readers, units_on
from tasks.task import SupervisedTask
from tasks.training.recipe import Recipe
from tasks.training.run import Interrupted, TrainingRun, Watch
from tasks.training.supervised import Loop, begin, fresh, train_network

POSITIONS = 32
"""Of the curve over channel order: it is read there from every group of layers, however many channels that has."""
MEASURES = ("norm of the kernels", "gradient in training", "rise in loss when cut out")


def kernel_norms(net: nn.Module) -> list[Tensor]:
    """For each group of layers the L2 norm of the weights that make each unit, [units]."""
    return [squares.sqrt() for squares in channel_scores(net, "l2").values]


def loss_without(net: nn.Module, loss: Callable[[], Tensor]) -> list[Tensor]:
    """For each group, by how much the loss of the full network rises when one unit is cut out, [units].

    Nothing reads the unit then. Of a large group only the units that the curve reads are cut out; the others are NaN.
    """
    slimming = slimming_of(net)
    with torch.no_grad(), slim.at_width(net, 1.0):
        whole = float(loss())
        rises = []
        for number, group in enumerate(slimming.layout.groups):
            reading = readers(slimming, number)
            found = torch.full((group.units,), torch.nan, dtype=torch.double)
            for unit in sorted(set(_read_at(group.units))):
                with _hidden(net, reading, number, unit):
                    found[unit] = float(loss()) - whole
            rises.append(found)
    return rises


@contextmanager
def _hidden(net: nn.Module, reading: Sequence[Weight], group: int, unit: int) -> Iterator[None]:
    """Within, the layers that read a unit of a group get zeros in its place."""
    handles = []
    for weight in reading:
        module = net.get_submodule(weight.name.removesuffix("weight").rstrip("."))
        keep = units_on(weight.axis, group) != unit
        if isinstance(module, _ConvNd):  # in groups of channels, whose weights lie in the same columns
            keep = keep.repeat(module.in_channels // len(keep)).view(-1, *[1] * (weight.value.dim() - 2))
        handles.append(module.register_forward_pre_hook(lambda _, x, keep=keep: (x[0] * keep.to(x[0]), *x[1:])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gradient_mass(task: SupervisedTask, recipe: Recipe, run: TrainingRun, steps: int) -> list[Tensor]:
    """For each group the L2 norm of the gradient of the weights that make each unit, summed over the first steps.

    The network is trained as the recipe says, from its beginning; an individual one at full width.

    Args:
        run: how; its steps decide the schedule.
        steps: after which the training ends.

    Returns:
        [units] each.
    """
    mass, individual = _GradientMass(steps), recipe.kind == "individual"
    loop = Loop(task, recipe, replace(run, watch=Watch(mass.add, lambda: mass.left == 0)))
    net = slimmable(recipe, task, fresh(loop))
    training = begin(loop, net, 1.0 if individual else None, None if individual else recipe.make_rule(run.seed))
    mass.watch(slimming_of(net))
    with suppress(Interrupted):
        train_network(loop, training)
    return mass.sums


class _GradientMass:
    """Adds up the norms of the gradients that each step leaves behind."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.sums: list[Tensor] = []
        self._made: list[list[Weight]] = []

    def watch(self, slimming: Slimming) -> None:
        """From now on those of this network's weights."""
        groups = slimming.layout.groups
        with at_full_width(slimming):
            self._made = [makers(slimming, number) for number in range(len(groups))]
        self.sums = [torch.zeros(group.units, dtype=torch.double) for group in groups]

    def add(self, *_: object) -> None:
        """A step is done."""
        self.left -= 1
        for number, (made, total) in enumerate(zip(self._made, self.sums, strict=True)):
            held = [(weight, p.grad) for weight in made for p in weight.parameters if p.grad is not None]
            squares = [weight.per_unit(gradient.square(), number, len(total)) for weight, gradient in held]
            total += sum(squares, torch.zeros_like(total)).sqrt()


def curve(groups: Sequence[Tensor]) -> Tensor:
    """How a measure is spread over channel order, all groups together: [POSITIONS] shares, whose sum is 1.

    Each group is read at its units at 0, 1/32, 2/32 .. of its length. NaN where the whole is nothing, or negative.
    """
    total = torch.stack([len(units) * units[_read_at(len(units))] for units in groups]).sum(0)
    return total / total.sum() if total.sum() > 0 else torch.full_like(total, torch.nan)


def first_quarter(shares: Tensor) -> float:
    """What of a curve lies in the first quarter of the channels, in %; 25 where all matter alike."""
    return 100 * float(shares[: POSITIONS // 4].sum())


def _read_at(units: int) -> list[int]:
    return [position * units // POSITIONS for position in range(POSITIONS)]
