"""Super-resolution as a task that the runner can train and score."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from slimlib.core.width import round_channels
from tasks.points import AS_IT_IS, OperatingPoint, Scores
from tasks.sr.data import ImageSet, random_patches
from tasks.sr.evaluate import bicubic_upscaler, evaluate, evaluate_upscaler
from tasks.sr.metrics import PROTOCOLS, score
from tasks.sr.networks import Edsr, wdsr_a, wdsr_b
from tasks.sr.photos import EVALUATION
from tasks.sr.routing import PatchRule, PatchRuleFinder
from tasks.sr.settings import SrSettings
from tasks.sr.showcase import compared, patches_by_width
from tasks.sr.sources import find_source
from tasks.task import HeldOut, Metric, Showcase, SupervisedTask
from tasks.training.problem import CPU
from tasks.training.ranks import WHOLE, Shard

SHOWN = ("photos",)  # data whose images may be shown in a figure: their licence says so


class SuperResolution(SupervisedTask):
    """The super-resolution task: L1 on random patches, PSNR and SSIM on whole images.

    Args:
        settings: which network, scale, images and protocol.

    Raises:
        ValueError: the images cannot be found, read, or are too small for a patch.

    Source: Yu et al. 2018 (WDSR), sec. 4; Lim et al. 2017 (EDSR), sec. 4.
    """

    name = "sr"
    metrics = (Metric("psnr", "dB", "higher"), Metric("ssim", "", "higher"))
    rule_finder = PatchRuleFinder

    def __init__(self, settings: SrSettings) -> None:
        self.settings = settings
        self.widths, self.batch = settings.widths, settings.batch
        self._protocol = PROTOCOLS[settings.protocol]
        self.protocol = (
            f"PSNR in dB and SSIM (Gaussian, 11 x 11, sigma 1.5) on {self._protocol.describe(settings.scale)}, "
            "averaged over images"
        )
        source = find_source(settings)
        self.dataset = source.name
        self.eval_sets = tuple(source.evaluation)
        scale, cache_gb = settings.scale, settings.cache_gb
        self._train = ImageSet(
            source.name, source.train, scale=scale, smallest=settings.patch * scale, cache_gb=cache_gb
        )
        smallest = self._protocol.smallest_side(scale)
        self.evaluation = [
            ImageSet(name, pairs, scale=scale, smallest=smallest, cache_gb=cache_gb)
            for name, pairs in source.evaluation.items()
        ]

    def build(self, width: float = 1.0, *, norm: str = "batch") -> nn.Module:
        """A freshly initialised dense network; below 1.0 the individual network of that width.

        Raises:
            ValueError: `norm` is another; these networks have weight normalisation, or none.
        """
        s = self.settings
        if norm != "batch":
            raise ValueError(f"{s.model} has no layer that '{norm}' normalisation could replace")
        expansion = s.expansion or {"wdsr-a": 4, "wdsr-b": 6, "edsr": 1}[s.model]
        features = round_channels(s.features, width, s.divisor)
        hidden = round_channels(s.features * expansion, width, s.divisor)
        if s.model == "wdsr-a":
            return wdsr_a(features=features, hidden=hidden, blocks=s.blocks, scale=s.scale)
        if s.model == "wdsr-b":
            low_rank = round_channels(max(1, int(0.8 * s.features)), width, s.divisor)
            return wdsr_b(features=features, hidden=hidden, low_rank=low_rank, blocks=s.blocks, scale=s.scale)
        return Edsr(features=features, hidden=hidden, blocks=s.blocks, scale=s.scale)

    def channel_rule(self, net: nn.Module) -> Mapping[str, int]:
        """Every layer is rounded to multiples of one divisor."""
        return {"divisor": self.settings.divisor}

    def example(self) -> Tensor:
        """An input of the training size, [1, 3, patch, patch]."""
        side = self.settings.patch
        return torch.full((1, 3, side, side), 0.5)

    def batches(
        self,
        steps: range,
        seed: int,
        *,
        device: torch.device = CPU,
        shard: Shard = WHOLE,
        augmented: bool = True,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Low- and high-resolution patches in [0, 1]; the same for the same step and seed, `augmented` or not."""
        s = self.settings
        for step in steps:
            low, high = random_patches(self._train, patch=s.patch, batch=s.batch, seed=seed, step=step)
            yield low[shard.index :: shard.count].to(device), high[shard.index :: shard.count].to(device)

    @property
    def training_images(self) -> ImageSet:
        """What networks are trained on."""
        return self._train

    def split(self, share: float) -> tuple[Self, Self]:
        """Whole images are held out, evenly over the set."""
        parts = copy.copy(self), copy.copy(self)
        for part, images in zip(parts, self._train.split(share), strict=True):
            part._train = images
        return parts

    def tuned(self, own: Mapping[str, Any]) -> Self:
        """With a learning rate of its own, say."""
        made = copy.copy(self)
        made.settings = self.settings.tuned(own)
        return made

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean absolute error."""
        return F.l1_loss(output, target)

    def optimizer(self, net: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        """Adam, and its learning rate lowered in steps over a training of `steps`."""
        s = self.settings
        lr = s.lr or (1e-4 if s.model == "edsr" else 1e-3)
        optimizer = Adam(net.parameters(), lr=lr)
        milestones = sorted({round(fraction * steps) for fraction in s.milestones})
        return optimizer, MultiStepLR(optimizer, milestones, gamma=s.decay)

    def evaluate(self, net: nn.Module, points: Sequence[OperatingPoint] = (AS_IT_IS,)) -> list[Scores]:
        """PSNR and SSIM on every evaluation set, at each operating point."""
        return evaluate(net, self.evaluation, self._protocol, points)

    def baselines(self) -> dict[str, Scores]:
        """The scores of plain bicubic upscaling.

        Raises:
            ValueError: it is exact for an image, as of one colour: no mean is taken over what is infinite.
        """
        return {"bicubic": self._bicubic}

    @cached_property
    def _bicubic(self) -> Scores:
        upscaler = bicubic_upscaler(self.settings.scale)
        scores = evaluate_upscaler(upscaler, self.evaluation, self._protocol)
        for images in (images for images in self.evaluation if math.isinf(scores[images.name]["psnr"])):
            for pair, (low, high) in zip(images.pairs, images, strict=True):
                if math.isinf(score(upscaler(low), high, self._protocol, images.scale)["psnr"]):
                    raise ValueError(
                        f"{pair.high} cannot be scored: bicubic upscaling gets it exactly, as an image of one colour, "
                        f"and its PSNR is infinite; remove it from {images.name}"
                    )
        return scores

    def held_out(self, count: int) -> HeldOut:
        """Random patches of the training size from the first evaluation set, and what they were in high resolution."""
        low, high = random_patches(self.evaluation[0], patch=self.settings.patch, batch=count, seed=0, step=0)
        return HeldOut(low, high, low if self.settings.data in SHOWN else None)

    def showcase(self, nets: Mapping[str, Callable[[Tensor], Tensor]]) -> Showcase | None:
        """Crops of the held-out photographs beside bicubic and original; None for images that may not be shown."""
        if self.settings.data not in SHOWN:
            return None
        return compared(nets, self.evaluation[0], EVALUATION, self._protocol)

    def show_widths(self, net: nn.Module, rule: PatchRule) -> Showcase | None:
        """The held-out photographs, and the width of each of their patches; None for images that may not be shown."""
        return Showcase(patches_by_width(net, rule, self.evaluation[0])) if self.settings.data == "photos" else None
