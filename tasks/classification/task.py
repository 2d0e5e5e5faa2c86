"""Image classification as a task that the runner can train and score."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from slimlib import models
from tasks.classification.augment import AREA, Augmentation, CropWhereDecoded, draw
from tasks.classification.cache import PixelCache
from tasks.classification.evaluate import TOPS, CentreCrop, errors, metrics_for
from tasks.classification.holding_out import hold_out_fraction
from tasks.classification.images import LabelledImages
from tasks.classification.loading import load
from tasks.classification.normalise import IMAGENET, measured
from tasks.classification.optimizer import make_optimizer
from tasks.classification.settings import ClassificationSettings
from tasks.classification.showcase import by_width, guesses
from tasks.classification.sources import find_source
from tasks.points import AS_IT_IS, OperatingPoint, Scores
from tasks.task import HeldOut, Showcase, SupervisedTask
from tasks.training.problem import CPU
from tasks.training.ranks import WHOLE, Shard
from tasks.training.run import derive_seed
from tasks.training.sampling import sampled
from tasks.training.width_rules import WidthRule

EVALUATION_BATCH = 256
SHOWN = ("digits",)  # data whose images may be shown in a figure: their licence says so


class Classification(SupervisedTask):
    """The classification task: cross-entropy on varied images, top-1 and top-5 error on whole evaluation sets.

    Args:
        settings: which network, images and recipe.

    Raises:
        ValueError: the images cannot be found or read.

    Source: Yu et al. 2019 (Slimmable Neural Networks), sec. 4; Yu & Huang 2019 (US-Nets), sec. 4.
    """

    name = "classification"

    def __init__(self, settings: ClassificationSettings) -> None:
        self.settings = settings
        self.widths, self.batch = settings.widths, settings.batch
        source = find_source(settings.data, settings.root, hold_out=settings.hold_out)
        self._train, self._evaluation = source.train, source.evaluation
        self.eval_sets = tuple(source.evaluation)
        self.metrics = metrics_for(len(source.train.classes))
        self._normalisation = IMAGENET if settings.normalisation == "imagenet" else measured(source.train)
        self._cache = PixelCache(settings.cache_gb)
        self._augmentation = Augmentation(settings, self._normalisation, source.train.side)
        sets = ", ".join(f"{name} ({len(images):,} images)" for name, images in source.evaluation.items())
        classes = len(source.train.classes)
        self.dataset = f"{source.name}, {len(source.train):,} images of {classes} classes, {settings.batch} a step"
        shown = " and ".join(metric.name.removesuffix("_error").replace("p", "p-") for metric in self.metrics)
        self.protocol = (
            f"{shown.capitalize()} error in % on {sets}, {self._view(next(iter(source.evaluation.values())))}"
        )

    def build(self, width: float = 1.0, *, norm: str = "batch") -> nn.Module:
        """A freshly initialised dense network, channels_last; below 1.0 the individual network of that width.

        Raises:
            ValueError: there is no such normalisation.
        """
        s = self.settings
        net = models.build(
            s.model,
            classes=len(self._train.classes),
            size=s.built_for,
            width=width,
            multiplier=s.multiplier,
            divisor=s.divisor or None,
            norm=cast(Literal["batch", "group"], norm),
        )
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def channel_rule(self, net: nn.Module) -> Mapping[str, Any]:
        """What the model says of its layers."""
        return cast(Mapping[str, Any], net.channel_rule)

    def example(self) -> Tensor:
        """Noise of the size that enters the network, [1, 3, size, size]."""
        size = self.settings.size
        noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        return noise.to(memory_format=torch.channels_last)

    def batches(
        self,
        steps: range,
        seed: int,
        *,
        device: torch.device = CPU,
        shard: Shard = WHOLE,
        augmented: bool = True,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images [n, 3, size, size] and labels [n] of each step; not `augmented`: as in evaluation."""
        s, images = self.settings, self._train
        sample = sampled(len(images), s.batch, steps, derive_seed(seed, "images"))
        chosen = (indices[shard.index :: shard.count] for indices in sample)
        if not augmented:
            yield from self._plain(images, chosen, device)
            return
        changes = derive_seed(seed, "augmentation")
        prepare, at_least = self._where_decoded(changes, steps.start, shard)
        with closing(
            load(images, chosen, prepare=prepare, workers=s.workers, cache=self._cache, at_least=at_least)
        ) as loaded:
            for step, (pixels, labels) in zip(steps, loaded, strict=True):
                draws = draw(s.batch, changes, step)[shard.index :: shard.count]
                varied = self._augmentation(pixels.to(device, non_blocking=True), draws)
                yield varied, labels.to(device, non_blocking=True)

    def split(self, share: float) -> tuple[Self, Self]:
        """Each class gives its share."""
        parts = copy.copy(self), copy.copy(self)
        for part, images in zip(parts, hold_out_fraction(self._train, share, name=self._train.name), strict=True):
            part._train = images
        return parts

    def head_of(self, net: nn.Module) -> str:
        """The classifier."""
        return cast(Sequence[str], net.layers)[-1]

    def gate_before(self, net: nn.Module) -> str:
        """As the model says."""
        return str(net.gate_before)

    def tuned(self, own: Mapping[str, Any]) -> Self:
        """With a learning rate of its own, say."""
        made = copy.copy(self)
        made.settings = self.settings.tuned(own)
        return made

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy with the labels, smoothed."""
        return F.cross_entropy(output, target, label_smoothing=self.settings.label_smoothing)

    def optimizer(self, net: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        """SGD, and its learning rate over a training of `steps`."""
        return make_optimizer(net, self.settings, steps=steps, images=len(self._train))

    def evaluate(self, net: nn.Module, points: Sequence[OperatingPoint] = (AS_IT_IS,)) -> list[Scores]:
        """Top-1 and top-5 error on every evaluation set, at each operating point; images are decoded once for all."""
        names = [metric.name for metric in self.metrics]
        device = next(net.parameters()).device
        scores: list[Scores] = [{} for _ in points]
        for eval_set, images in self._evaluation.items():
            indices = range(len(images))
            batches = (indices[i : i + EVALUATION_BATCH] for i in range(0, len(images), EVALUATION_BATCH))
            found = errors(net, self._plain(images, batches, device), points, tops=[TOPS[name] for name in names])
            for own, values in zip(scores, found, strict=True):
                own[eval_set] = dict(zip(names, values, strict=True))
        return scores

    def baselines(self) -> dict[str, Scores]:
        """What guessing would score."""
        classes = len(self._train.classes)
        chance = {metric.name: 100 * (1 - TOPS[metric.name] / classes) for metric in self.metrics}
        return {"chance": {name: dict(chance) for name in self.eval_sets}}

    def held_out(self, count: int) -> HeldOut:
        """Images evenly spread over the first evaluation set, and their labels."""
        images = next(iter(self._evaluation.values()))
        count = min(count, len(images))
        chosen = [i * len(images) // count for i in range(count)]
        ((inputs, labels),) = self._plain(images, [chosen], CPU)
        prepare, shown = self._centre(images), self.settings.data in SHOWN
        pixels = [image if prepare is None else prepare(image) for image in map(images.read, chosen)] if shown else []
        return HeldOut(inputs, labels, torch.stack(pixels).float() / 255 if shown else None)

    def showcase(self, nets: Mapping[str, Callable[[Tensor], Tensor]]) -> Showcase | None:
        """Held-out images and what each network takes them for; None for images that may not be shown."""
        if self.settings.data not in SHOWN:
            return None
        images = next(iter(self._evaluation.values()))
        return Showcase(guesses(nets, images, self._normalisation, self._centre(images)))

    def show_widths(self, net: nn.Module, rule: WidthRule) -> Showcase | None:
        """Held-out images by the width that they get; None for images that may not be shown."""
        if self.settings.data not in SHOWN:
            return None
        images = next(iter(self._evaluation.values()))
        return Showcase(by_width(net, rule, images, self._normalisation, self._centre(images)))

    def _where_decoded(self, seed: int, first: int, shard: Shard) -> tuple[CropWhereDecoded | CentreCrop | None, int]:
        """What happens to a training image where it is decoded, and the shorter side that this needs (0: all)."""
        s = self.settings
        if self._augmentation.crops_where_decoded:
            area = s.area or AREA
            crop = CropWhereDecoded(s.size, area, batch=s.batch, seed=seed, first=first, shard=shard)
            return crop, math.ceil(s.size / math.sqrt(area))
        return (None if s.crop == "resized" else self._centre(self._train)), 0

    def _centre(self, images: LabelledImages) -> CentreCrop | None:
        """How evaluation looks at an image; None: as it is."""
        size, side = self.settings.size, images.side
        resize = self.settings.resize or (size if side is not None and side <= size else round(size * 256 / 224))
        return None if side == resize == size else CentreCrop(size, resize)

    def _plain(
        self, images: LabelledImages, batches: Iterable[Sequence[int]], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of images as evaluation looks at them."""
        prepare, workers = self._centre(images), self.settings.workers
        with closing(load(images, batches, prepare=prepare, workers=workers, cache=self._cache)) as loaded:
            for pixels, labels in loaded:
                pixels = pixels.to(device, non_blocking=True)
                yield self._normalisation(pixels.float() / 255), labels.to(device, non_blocking=True)

    def _view(self, images: LabelledImages) -> str:
        centre = self._centre(images)
        if centre is None:
            return f"whole, {images.side} x {images.side}"
        return f"scaled to {centre.resize}, the middle {centre.size} x {centre.size}"
