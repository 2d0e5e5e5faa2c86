"""What `convert` makes of a member of the table, and how far that is from the dense network of the slices."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.layout import Layout
from slimlib.core.structures import map_tensors, outputs
from tests.families.members import Member
from tests.families.slices import DenseOfSlices, active_elements

WIDTHS = (0.25, 0.5, 0.75)
TOLERANCE = 1e-9  # of the largest output, in double precision
SINGLE = 1e-4  # the same of transformers, whose networks compute in single precision here and there
OUTPUT = "reaches the network's output"  # the reason that any classifier has


@dataclass(frozen=True)
class Finding:
    """A member after `convert`. Differences are relative to the largest value, and the largest that were met.

    Attributes:
        refused: what `convert` said, if it refused the member; the rest is then empty.
        layers, groups: how many slim.
        kept: name of each layer that stays full -> why.
        parameters, macs: the share left at width 0.5.
        halves: the share of the parameters left where each group has half its units, not rounded to a divisor.
        outputs: difference from the dense network of the slices, in eval mode by width, and in training at 0.5.
        gradients: difference of the gradients then; infinite where others than the active weights have any.
        extracted: difference of what `extract` returns.
        still: layers that slim and have no gradient at all, though the dense network has.
        seconds: of processor time that `convert` took.
        tolerance: of all differences.
        same_when_full: at width 1.0 outputs and gradients are the dense network's, bit for bit.
    """

    refused: str = ""
    layers: int = 0
    groups: int = 0
    kept: Mapping[str, str] = field(default_factory=dict)
    parameters: float = 1.0
    macs: float = 1.0
    halves: float = 1.0
    outputs: Mapping[str, float] = field(default_factory=dict)
    gradients: float = 0.0
    extracted: float = 0.0
    still: tuple[str, ...] = ()
    same_when_full: bool = True
    seconds: float = 0.0
    tolerance: float = TOLERANCE

    @property
    def left(self) -> float:
        """The share of the parameters that is left at width 0.5, all of them where the member was refused."""
        return 1.0 if self.refused else self.parameters

    @property
    def difference(self) -> float:
        return max([*self.outputs.values(), self.gradients, self.extracted])

    @property
    def verdict(self) -> str:
        if self.refused:
            return "refused"
        if self.difference > self.tolerance or not self.same_when_full:
            return "wrong"
        return "slims" if all(why == OUTPUT for why in self.kept.values()) else "slims in part"


@cache
def finding(member: Member) -> Finding:
    """Convert a member and compare; done once for each."""
    dense, args = randomised(member.build()), member.example()
    net, begin = copy.deepcopy(dense), time.process_time()
    try:
        slim.convert(net, args, norm="shared")
    except ValueError as error:
        return Finding(refused=str(error), seconds=time.process_time() - begin)
    seconds = time.process_time() - begin
    layout: Layout = net.slim.layout
    same, full, half = same_when_full(dense, net, args), slim.cost(net, args), slim.cost(net, args, width=0.5)
    pair = Pair(dense, net, layout)
    args = map_tensors(lambda x: x.double() if x.is_floating_point() else x, args)
    in_eval, extracted = pair.in_eval(args), pair.extracted(args)
    in_training, gradients, still = pair.gradients(args)
    return Finding(
        layers=len({layer for group in layout.groups for layer in group.layers}),
        groups=len(layout.groups),
        kept={**layout.kept, **dict.fromkeys(layout.idle, "never ran")},
        parameters=pair.share(net.slim.channels_at(0.5)),
        macs=half.macs / full.macs,
        halves=pair.share(tuple(max(1, round(group.units / 2)) for group in layout.groups)),
        outputs=in_eval | {"training": in_training},
        gradients=gradients,
        extracted=extracted,
        still=still,
        same_when_full=same,
        seconds=seconds,
        tolerance=SINGLE if member.package == "transformers" else TOLERANCE,
    )


def randomised(net: nn.Module) -> nn.Module:
    """Without the zeros, ones and tiny scales of a fresh network, which would hide a fault."""
    generator = torch.Generator().manual_seed(2)
    for tensor in [*net.parameters(), *net.buffers()]:
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.data.add_(noise * 0.1 if tensor.dim() == 1 else (noise - 0.5) * 0.02)
    return net


def without_chance(net: nn.Module) -> None:
    """No dropout and no dropped paths: what they draw depends on the width."""
    for module in net.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and (name == "p" or "drop" in name):
                setattr(module, name, 0.0)


def same_when_full(dense: nn.Module, net: nn.Module, args: tuple[Any, ...]) -> bool:
    """Whether outputs, gradients and running statistics are equal bit for bit, in eval and in training mode."""
    slim.set_width(net, 1.0)
    for training in (False, True):
        results = []
        for model in (dense, net):
            torch.manual_seed(3)
            made = outputs(model.train(training)(*args))
            trained = [p for p in model.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(loss(made), trained, allow_unused=True)
            results.append([*made, *gradients, *model.buffers()])
        if not all(same(a, b) for a, b in zip(*results, strict=True)):
            return False
    return True


def same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


class Pair:
    """A slimmable network and the dense network of its slices, in double precision and without chance."""

    def __init__(self, dense: nn.Module, net: nn.Module, layout: Layout) -> None:
        without_chance(dense.double())
        without_chance(net.double())
        self.dense, self.net, self.layout = dense, net, layout
        self.slices = DenseOfSlices(dense)

    def set(self, width: float, *, training: bool) -> Mapping[str, Tensor]:
        """Both at a width; the elements that are active."""
        slim.set_width(self.net.train(training), width)
        active = active_elements(self.dense, self.layout, self.net.slim.channels_at(width))
        self.slices.train(training).keep(active)
        return active

    def in_eval(self, args: tuple[Any, ...]) -> dict[str, float]:
        """Differences of the outputs in eval mode."""
        found = {}
        for width in WIDTHS:
            self.set(width, training=False)
            with torch.no_grad():
                found[f"eval at {width}"] = difference(self.net(*args), self.slices(*args))
        return found

    def gradients(self, args: tuple[Any, ...], width: float = 0.5) -> tuple[float, float, tuple[str, ...]]:
        """In training mode the difference of the outputs, of the gradients, and which layers that slim have none."""
        active = self.set(width, training=True)
        ours, theirs = outputs(self.net(*args)), outputs(self.slices(*args))
        loss(ours).backward()
        loss(theirs).backward()
        worst, still = 0.0, []
        expected = {name: p.grad for name, p in self.dense.named_parameters()}
        floor = 1e-3 * max(float(grad.abs().max()) for grad in expected.values() if grad is not None)
        for name, p in self.net.named_parameters():
            a, b = p.grad, expected[name]
            if a is None or b is None:
                worst = worst if a is b else torch.inf
                continue
            if name in active:
                worst = torch.inf if bool(a[~active[name]].any()) else worst
                still += [] if bool(a.any()) or not bool(b.any()) else [name]
                b = b * active[name]
            worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp(min=floor)))
        return difference(ours, theirs), worst, tuple(still)

    def extracted(self, args: tuple[Any, ...], width: float = 0.5) -> float:
        """Difference of the plain network that `extract` makes."""
        slim.set_width(self.net.eval(), width)
        with torch.no_grad():
            return difference(slim.extract(self.net, width).eval()(*args), self.net(*args))

    def share(self, channels: tuple[int, ...]) -> float:
        """The share of the parameters that is active."""
        active = active_elements(self.dense, self.layout, channels)
        sizes = {name: p.numel() for name, p in self.dense.named_parameters()}
        left = sum(int(active[name].sum()) if name in active else size for name, size in sizes.items())
        return left / sum(sizes.values())


def difference(ours: Any, theirs: Any) -> float:
    """The largest over all tensors of an output, in parts of the largest value."""
    found = [
        float((a - b).abs().max() / b.abs().max()) if a.shape == b.shape else torch.inf
        for a, b in zip(outputs(ours), outputs(theirs), strict=True)
    ]
    return max(torch.inf if value != value else value for value in found)


def loss(made: list[Tensor]) -> Tensor:
    return torch.stack([output.square().mean() for output in made if output.is_floating_point()]).sum()
