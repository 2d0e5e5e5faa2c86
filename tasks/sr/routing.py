"""A width for each patch of an image: by a table of difficulty, by chance, or by what knows the original."""

from __future__ import annotations

import statistics
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.width import Width
from slimlib.dynamic.cascade import Answer
from slimlib.serving.cost import wait_for
from tasks.points import OperatingPoint, Spent
from tasks.sr.data import ImageSet, to_float
from tasks.sr.difficulty import ErrorTable, cheapest, difficulty
from tasks.sr.images import as_rgb
from tasks.sr.metrics import STUDIO_LUMA, to_uint8
from tasks.sr.patches import Tiling
from tasks.sr.resize import upscale
from tasks.training.per_input import RuleFinder
from tasks.training.run import derive_seed
from tasks.training.width_rules import Constant, WidthRule

BICUBIC = "bicubic"
"""The width zero, which costs no multiply-adds of a network."""
TIMED = 4  # images
ROUNDS = 5


class PatchRule(WidthRule):
    """Cuts an image into patches, gives each a width, runs those of a width together, and blends the results.

    Attributes:
        widths: of the network, narrow to wide; a choice of 0 is bicubic, of k the k-th of them.
        setting: what moves it from cheap to good.
        costs: multiply-adds of a low-resolution pixel by choice.
    """

    def __init__(self, widths: Sequence[Width], costs: Sequence[float], scale: int, setting: float) -> None:
        super().__init__(widths)
        self.costs_of_pixel, self.scale, self.setting = tuple(costs), scale, setting
        self._spent, self._pixels = 0.0, 0

    @abstractmethod
    def choose(self, image: Tensor, patches: Tensor, tiling: Tiling) -> Tensor:
        """A choice for each patch, int64 [P]."""

    def answer(self, net: nn.Module, *inputs: Any) -> Answer:
        """The upscaled image [1, 3, scale * H, scale * W] of [1, 3, H, W] in [0, 1]; widths: of the patches."""
        (image,) = inputs
        tiling = Tiling.of(*image.shape[2:])
        patches = tiling.cut(image)
        choice = self.choose(image, patches, tiling).cpu()
        self._count(image, tiling, choice)
        enlarged = (to_float(upscale(to_uint8(image[0]).cpu(), self.scale)[None])).to(image)
        outputs = tiling.cut(enlarged, self.scale).clone()
        routed = choice.nonzero()[:, 0]
        names = tuple(0.0 if not each else self.widths[each - 1] for each in choice.tolist())
        if len(routed):
            chosen = [self.widths[each - 1] for each in choice[routed].tolist()]
            outputs[routed] = slim.route(net, patches[routed], chosen).to(outputs)
        return Answer(tiling.blend(outputs, self.scale), names)

    def _count(self, image: Tensor, tiling: Tiling, choice: Tensor) -> None:
        pixels = tiling.side[0] * tiling.side[1]
        self._spent += sum(self.costs_of_pixel[each] * pixels for each in choice.tolist())
        self._pixels += image.shape[2] * image.shape[3]

    def spent(self, net: nn.Module, example: Any) -> Spent:
        """Of an image as large as the example: overlaps are paid for."""
        total = sum(self._counts.values())
        names = {0.0: BICUBIC} | {width: self.named(width) for width in self.widths}
        shares = {name: self._counts[width] / total for width, name in names.items() if self._counts[width]}
        macs = self._spent / self._pixels * example.shape[2] * example.shape[3]
        self._counts.clear()
        self._spent, self._pixels = 0.0, 0
        return Spent(macs, self.cost(net, example).params, None, shares)


class ByDifficulty(PatchRule):
    """By a table of expected errors over difficulty; `setting` is the price of multiply-adds."""

    table: ErrorTable

    def choose(self, image: Tensor, patches: Tensor, tiling: Tiling) -> Tensor:
        shares = _shares(self.costs_of_pixel, tiling)
        return cheapest(self.table.expected(difficulty(patches)), shares, self.setting)


class ByChance(PatchRule):
    """Two neighbouring choices mixed at random: `setting` 1.25 is choice 1, and choice 2 for a quarter."""

    def __init__(self, *args: Any, seed: int) -> None:
        super().__init__(*args)
        self._generator = torch.Generator().manual_seed(seed)

    def choose(self, image: Tensor, patches: Tensor, tiling: Tiling) -> Tensor:
        return drawn(self.setting, len(patches), self._generator)


class ByOriginal(PatchRule):
    """By the errors that each width will really make, as only an oracle knows them; `setting` is the price."""

    targets: Tensor = torch.empty(0)  # uint8 [C, scale * H, scale * W], told before each image
    net: nn.Module

    def choose(self, image: Tensor, patches: Tensor, tiling: Tiling) -> Tensor:
        errors = errors_of(self.net, self.widths, image, self.targets, tiling, self.scale)
        return cheapest(errors, _shares(self.costs_of_pixel, tiling), self.setting)


def drawn(level: float, count: int, generator: torch.Generator) -> Tensor:
    """Choices around a level."""
    return int(level) + (torch.rand(count, generator=generator) < level - int(level)).long()


def _shares(costs: Sequence[float], tiling: Tiling) -> list[float]:
    """Of a patch at each choice, over the whole image at full width."""
    part = tiling.side[0] * tiling.side[1] / (tiling.size[0] * tiling.size[1])
    return [part * cost / costs[-1] for cost in costs]


@torch.no_grad()
def errors_of(
    net: nn.Module, widths: Sequence[Width], image: Tensor, high: Tensor, tiling: Tiling, scale: int
) -> Tensor:
    """Squared errors of the luma, summed over each patch, of bicubic and of each width: [choices, P], float64."""
    outputs = [upscale(to_uint8(image[0]).cpu(), scale)]
    for width in widths:
        with slim.at_width(net, width):
            outputs.append(to_uint8(net(image)[0]).cpu())
    wanted = _luma(as_rgb(high))
    maps = [(_luma(output) - wanted).square()[None, None] for output in outputs]
    return torch.stack([tiling.cut(each, scale).sum((1, 2, 3)) for each in maps])


def _luma(image: Tensor) -> Tensor:  # uint8 [3, H, W] -> float64 [H, W]
    return (image.double() * torch.tensor(STUDIO_LUMA, dtype=torch.double)[:, None, None]).sum(0)


@dataclass(frozen=True)
class _HeldOut:
    """What is known of a held-out image: its patches' difficulty [P], and the errors of every choice [choices, P]."""

    tiling: Tiling
    difficulties: Tensor
    errors: Tensor


class PatchRuleFinder(RuleFinder):
    """Finds prices on images that no network learned from, so that an image costs what a point is named by."""

    def rules(self) -> Callable[[float], WidthRule | None]:
        kind = str(self.recipe.per_input)
        if kind == "uniform":
            return self.uniform
        images: ImageSet = self.held_out.training_images  # type: ignore[attr-defined]
        scale, device = images.scale, self.run.device
        pixels = self.example.shape[2] * self.example.shape[3]
        costs = [0.0, *(self.macs(width) / pixels for width in self.widths)]
        seen = [_seen(self.net, self.widths, low, high, scale, device) for low, high in images]
        table = ErrorTable.fitted(
            torch.cat([one.difficulties for one in seen]), torch.cat([_of_pixel(one) for one in seen], 1)
        )
        seed = derive_seed(self.run.seed, "random widths")

        def spent(setting: float) -> float:
            generator = torch.Generator().manual_seed(seed)
            shares = []
            for one in seen:
                of_patch = _shares(costs, one.tiling)
                if kind == "random":
                    choice = drawn(setting, len(one.tiling), generator)
                else:
                    errors = one.errors if kind == "oracle" else table.expected(one.difficulties)
                    choice = cheapest(errors, of_patch, setting)
                shares.append(sum(of_patch[each] for each in choice.tolist()))
            return statistics.fmean(shares)

        def within(cost: float) -> WidthRule | None:
            setting = _bisect(spent, cost, 0.0, float(len(self.widths))) if kind == "random" else _price(spent, cost)
            if kind == "random":
                return ByChance(self.widths, costs, scale, setting, seed=seed)
            made = (ByOriginal if kind == "oracle" else ByDifficulty)(self.widths, costs, scale, setting)
            if isinstance(made, ByOriginal):
                made.net = self.net
            elif isinstance(made, ByDifficulty):
                made.table = table
            return made

        return within

    def milliseconds(self, point: OperatingPoint) -> dict[str, Any]:
        """Of an input as large as the example, from whole images, one after another, routing and blending included."""
        if isinstance(point.what, ByOriginal):
            return {}
        images: ImageSet = self.held_out.training_images  # type: ignore[attr-defined]
        lows = [to_float(as_rgb(images[i][0])[None]).to(self.run.device) for i in range(min(TIMED, len(images)))]
        rule = point.what if isinstance(point.what, WidthRule) else Constant(point.widths)
        serve = rule.served_by(self.net)
        rounds = []
        with torch.inference_mode():
            for _ in range(ROUNDS + 1):
                wait_for(self.run.device)
                begin = time.perf_counter()
                for low in lows:
                    serve(low)
                wait_for(self.run.device)
                rounds.append(time.perf_counter() - begin)
        if isinstance(rule, PatchRule):
            rule._spent, rule._pixels = 0.0, 0
        share = self.example.shape[2] * self.example.shape[3] / sum(low.shape[2] * low.shape[3] for low in lows)
        took = 1e3 * share * statistics.median(rounds[1:])
        return {"milliseconds": took, "at_batch": {"1": took}}


def _seen(
    net: nn.Module, widths: Sequence[Width], low: Tensor, high: Tensor, scale: int, device: torch.device
) -> _HeldOut:
    image = to_float(as_rgb(low)[None]).to(device)
    tiling = Tiling.of(*image.shape[2:])
    errors = errors_of(net, widths, image, high, tiling, scale)
    return _HeldOut(tiling, difficulty(tiling.cut(image)).cpu().double(), errors)


def _of_pixel(one: _HeldOut) -> Tensor:
    return one.errors / (one.tiling.side[0] * one.tiling.side[1])


def _price(spent: Callable[[float], float], most: float) -> float:
    """The lowest price by which an image costs no more; at a price of 0 the best width is taken whatever it costs."""
    if spent(0.0) <= most:
        return 0.0
    low, high = 0.0, 1e-3
    while spent(high) > most:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= most else (middle, high)
    return high


def _bisect(rising: Callable[[float], float], most: float, low: float, high: float) -> float:
    """The largest argument, nearly, at which a rising function is no more than `most`."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) <= most else (low, middle)
    return low
