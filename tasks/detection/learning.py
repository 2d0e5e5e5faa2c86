"""What a detector learns from: the losses of the data, and what narrow widths learn from the largest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.utils._pytree import register_dataclass

REGIONS = 64
"""Regions of an image that outputs of the heads are compared at."""


@dataclass(frozen=True)
class Learned:
    """The output of a detector in training.

    Attributes:
        losses: by name, each a scalar.
        features: the levels of the pyramid, [N, C, H, W] each.
        proposals: regions of each image, the surest first, [n, 4].
        heads: head of the anchors, heads of the regions, sizes of the images; all widths share them.
    """

    losses: dict[str, Tensor]
    features: dict[str, Tensor]
    proposals: list[Tensor]
    heads: Any

    @property
    def loss(self) -> Tensor:
        """The sum of all losses. Source: Ren et al. 2015, eq. 1; He et al. 2017, sec. 3."""
        return torch.stack(list(self.losses.values())).sum()

    def from_pyramid(self, teacher: Learned) -> Tensor:
        """Mean squared error of the features, averaged over the levels."""
        pairs = zip(self.features.values(), teacher.features.values(), strict=True)
        return self._tied(torch.stack([F.mse_loss(own, taught) for own, taught in pairs]).mean())

    def from_heads(self, teacher: Learned) -> Tensor:
        """Distance of what the shared heads make of both pyramids, at all anchors and at the teacher's surest regions.

        Scores: cross-entropy with the teacher's probabilities. Places: smooth L1, as in the losses of the data.
        """
        regions = [boxes[:REGIONS] for boxes in teacher.proposals]
        with torch.no_grad():
            taught = teacher._outputs(regions)
        pairs = zip(self._outputs(regions), taught, strict=True)
        return self._tied(torch.stack([DISTANCES[kind](own, other) for (kind, own), (_, other) in pairs]).sum())

    def _tied(self, distance: Tensor) -> Tensor:
        """DistributedDataParallel waits for a gradient of every parameter, also of those that only the losses need."""
        several = distributed.is_available() and distributed.is_initialized()
        return distance + 0 * self.loss if several else distance

    def _outputs(self, regions: list[Tensor]) -> list[tuple[str, Tensor]]:
        """The outputs of all heads, each with the kind that it is."""
        anchors, heads, sizes = self.heads
        objectness, shifts = anchors(list(self.features.values()))
        found = [("yes or no", score) for score in objectness] + [("places", shift) for shift in shifts]
        scores, places = heads.box_predictor(heads.box_head(heads.box_roi_pool(self.features, regions, sizes)))
        found += [("one of", scores), ("places", places)]
        if heads.has_mask():
            pooled = heads.mask_roi_pool(self.features, regions, sizes)
            found.append(("yes or no", heads.mask_predictor(heads.mask_head(pooled))))
        if heads.has_keypoint():
            pooled = heads.keypoint_roi_pool(self.features, regions, sizes)
            found.append(("one of", heads.keypoint_predictor(heads.keypoint_head(pooled)).flatten(2).flatten(0, 1)))
        return found


register_dataclass(Learned)


def _one_of(own: Tensor, taught: Tensor) -> Tensor:
    """Cross-entropy of the classes (or positions) in the last dimension."""
    return -(taught.softmax(-1) * own.log_softmax(-1)).sum(-1).mean()


def _yes_or_no(own: Tensor, taught: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(own, taught.sigmoid())


def _places(own: Tensor, taught: Tensor) -> Tensor:
    return F.smooth_l1_loss(own, taught, beta=1 / 9)


DISTANCES = {"one of": _one_of, "yes or no": _yes_or_no, "places": _places}
