"""Detection as a task that the runner can train and score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from slimlib.core.norms import NormName, norm_named
from slimlib.core.width import Widths
from tasks.detection.backbones import fill_switches, started
from tasks.detection.learning import Learned
from tasks.detection.loading import load, to_float
from tasks.detection.networks import NORMS, Detector, Plan, Regions, build_detector
from tasks.detection.scoring import metrics_for, results_of, scores
from tasks.detection.settings import DetectionSettings
from tasks.detection.showcase import compared
from tasks.detection.sources import find_source
from tasks.points import AS_IT_IS, OperatingPoint, Scores, runs_at
from tasks.task import Showcase, SupervisedTask
from tasks.training.problem import CPU
from tasks.training.ranks import WHOLE, Shard
from tasks.training.run import derive_seed
from tasks.training.sampling import sampled

EVALUATION_BATCH = 8
DETECTIONS = 100  # of an image, at most: what COCO counts

Input = tuple[list[Tensor], list[dict[str, Tensor]]]


class Detection(SupervisedTask):
    """The detection task: the losses of R-CNNs on images with boxes, masks or keypoints, average precision of COCO.

    Args:
        settings: which network, images and recipe.

    Raises:
        ValueError: the images or annotations cannot be found, read, or do not fit.

    Source: Yu et al. 2019 (Slimmable Neural Networks), sec. 4.3.
    """

    name = "detection"

    def __init__(self, settings: DetectionSettings) -> None:
        self.settings = settings
        self.widths, self.batch = settings.widths, settings.batch
        source = find_source(settings)
        self._train, self._evaluation = source.train, source.evaluation
        self._learnable = source.train.learnable()
        self.classes, self.keypoints = source.train.annotations.classes, source.train.annotations.keypoints
        self.metrics = metrics_for(source.evaluation.annotations)
        self.eval_sets = (source.evaluation.name,)
        self.dataset = (
            f"{source.name}, {len(self._learnable):,} images of {len(self.classes)} classes, {settings.batch} a step"
        )
        s = settings
        self.protocol = (
            f"AP in % by pycocotools on {source.evaluation.name} ({len(source.evaluation):,} images), shorter side "
            f"{s.sides[-1]}, longer at most {s.longest}; multiply-adds at {s.sides[-1]} x {s.sides[-1]} with "
            f"{s.proposals // 2} regions"
        )
        if not self._learnable:
            raise ValueError(f"no image of {source.train.name} has an object that task.head={s.head} could learn")

    def build(self, width: float = 1.0, *, norm: str = "batch") -> nn.Module:
        """A dense detector; its backbone has the weights that it starts with, below 1.0 those of that width.

        Raises:
            ValueError: the weights cannot be read, or have other normalisation than "group".
        """
        s = self.settings
        own = "group" if norm == "group" else s.normalised_by
        plan = Plan(
            s.head, len(self.classes), len(self.keypoints), s.sides, s.longest, s.anchor, s.pyramid, s.hidden,
            (s.proposals, s.proposals // 2), (s.sampled // 2, s.sampled),
        )  # fmt: skip
        backbone = started(s, width, "group" if own == "group" else "batch")
        still = 0 if s.start == "scratch" else s.frozen_stages
        detector = build_detector(backbone, s.model, plan, frozen=own == "frozen", frozen_stages=still)
        detector.backbone.to(memory_format=torch.channels_last)  # not the heads, whose outputs torchvision views
        return detector

    def convert(
        self, net: nn.Module, widths: Widths, norm: NormName, *, bands: int | None = None, keep: Sequence[str] = ()
    ) -> nn.Module:
        """Make the backbone and the inputs of the pyramid slimmable; each switch has the BatchNorm that it starts with.

        Raises:
            ValueError: `norm` is about BatchNorm, and the detector has none.
        """
        assert isinstance(net, Detector)
        if norm == "shared" and not any(isinstance(module, NORMS) for module in net.modules()):
            raise ValueError("norm: shared is about BatchNorm, and the backbone has none: take task.norm=batch")
        if not norm_named(norm).learns_statistics:
            net.thaw()  # post-statistics: any width may be drawn in training, and has none yet
        super().convert(net, widths, norm, bands=bands, keep=keep)
        if norm_named(norm).has_private_parameters and self.settings.start != "scratch":
            fill_switches(net, self.settings)
        return net

    def channel_rule(self, net: nn.Module) -> Mapping[str, Any]:
        """The backbone's rule; pyramid and heads stay full."""
        assert isinstance(net, Detector)
        return {"divisor": net.divisor, "keep": net.shared}

    def example(self) -> Any:
        """A square image of the shorter side, and as many regions as there are in evaluation."""
        side = self.settings.sides[-1]
        image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
        return [image], None, Regions(self.settings.proposals // 2, DETECTIONS)

    def batches(
        self,
        steps: range,
        seed: int,
        *,
        device: torch.device = CPU,
        shard: Shard = WHOLE,
        augmented: bool = True,
    ) -> Iterator[tuple[Input, None]]:
        """Images and targets of each step, both of them inputs; mirrored at random where `augmented`."""
        s = self.settings
        sample = sampled(len(self._learnable), s.batch, steps, derive_seed(seed, "images"))
        wanted = (
            self._wanted(indices, seed, step, augmented and s.flip)[shard.index :: shard.count]
            for step, indices in zip(steps, sample, strict=True)
        )
        for items in load(self._train, wanted, workers=s.workers):
            images = [to_float(image.to(device, non_blocking=True)) for image, _ in items]
            targets = [{k: value.to(device, non_blocking=True) for k, value in target.items()} for _, target in items]
            yield (images, targets), None

    def _wanted(self, indices: Sequence[int], seed: int, step: int, flip: bool) -> list[tuple[int, bool]]:
        mirror = np.random.default_rng((derive_seed(seed, "mirrors"), step)).random(len(indices)) < 0.5
        return [(self._learnable[i], flip and bool(m)) for i, m in zip(indices, mirror, strict=True)]

    def loss(self, output: Learned, target: None) -> Tensor:
        """The sum of the losses of all heads."""
        return output.loss

    def optimizer(self, net: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        """SGD or AdamW; the rate rises from a third, and falls to a tenth at each milestone."""
        s = self.settings
        learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
        optimizer: Optimizer = (
            AdamW(learning, lr=s.lr, weight_decay=s.weight_decay)
            if s.optimizer == "adamw"
            else SGD(learning, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
        )
        ends = [round(fraction * steps) for fraction in s.milestones]

        def factor(step: int) -> float:
            risen = 1.0 if step >= s.warmup else 1 / 3 + 2 / 3 * step / s.warmup
            return float(risen * 0.1 ** sum(step >= end for end in ends))

        return optimizer, LambdaLR(optimizer, factor)

    @torch.no_grad()
    def evaluate(self, net: nn.Module, points: Sequence[OperatingPoint] = (AS_IT_IS,)) -> list[Scores]:
        """Average precision on the evaluation set, at each operating point; images are decoded once for all."""
        images, device, training = self._evaluation, next(net.parameters()).device, net.training
        found: list[list[dict[str, Any]]] = [[] for _ in points]
        net.eval()
        try:
            with runs_at(net, points) as runs:
                for first in range(0, len(images), EVALUATION_BATCH):
                    numbers = range(first, min(first + EVALUATION_BATCH, len(images)))
                    shown = [to_float(images.pixels(n).to(device)) for n in numbers]
                    for own, run in zip(found, runs, strict=True):
                        for n, output in zip(numbers, run(shown), strict=True):
                            own += results_of(images.annotations.images[n], output, images.annotations)
        finally:
            net.train(training)
        return [{images.name: scores(images.annotations, own)} for own in found]

    def showcase(self, nets: Mapping[str, Callable[[list[Tensor]], Any]]) -> Showcase | None:
        """What each network finds in held-out images; None for images that may not be shown."""
        if self.settings.data != "shapes":
            return None
        return compared(nets, self._evaluation)
