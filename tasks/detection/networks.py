"""Faster, Mask and Keypoint R-CNN with a pyramid over a ResNet: the backbone slims, all else serves every width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn

from slimlib.models import resnet
from slimlib.models.classifier import Classifier
from tasks.detection.learning import Learned
from tasks.detection.operators import torchvision

tv = torchvision()

Head = Literal["boxes", "masks", "keypoints"]
DEPTHS = {"resnet18": resnet.RESNET18, "resnet50": resnet.RESNET50}
LEVELS = 4  # of the pyramid that regions are pooled from; anchors also lie on a fifth
NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class Regions:
    """How many regions the heads look at where only the cost is counted, since their number depends on the image.

    boxes: of the box head; others: of the mask or keypoint head.
    """

    boxes: int
    others: int


@dataclass(frozen=True)
class Plan:
    """What a detector is, beside its backbone. The defaults are as published.

    Attributes:
        head: boxes, or masks or keypoints besides.
        classes: of objects; the background is one more.
        keypoints: of a person.
        sides: shorter side that images are scaled to in training, one of them at random; the last in evaluation.
        longest: side that an image has at most.
        anchor: side of the smallest anchors, in pixels; each level's are twice those of the level before.
        pyramid: channels of its levels; hidden: features of the box head.
        proposals: that are kept of an image: in training, in evaluation.
        sampled: anchors and regions of an image that losses are taken of.

    Source: Ren et al. 2015 (Faster R-CNN); Lin et al. 2017 (FPN), sec. 4; He et al. 2017 (Mask R-CNN), sec. 3.
    """

    head: Head = "boxes"
    classes: int = 80
    keypoints: int = 17
    sides: tuple[int, ...] = (800,)
    longest: int = 1333
    anchor: int = 32
    pyramid: int = 256
    hidden: int = 1024
    proposals: tuple[int, int] = (2000, 1000)
    sampled: tuple[int, int] = (256, 512)


class Detector(nn.Module):
    """An R-CNN of torchvision, whose backbone is any network with a pyramid.

    In training, with targets, it computes what it learns from (`Learned`); in evaluation a dict of boxes, labels,
    scores, masks and keypoints for each image, as torchvision has them.

    Args:
        rcnn: of torchvision.
        frozen: BatchNorm stays in eval mode, and its parameters do not learn.
        frozen_stages: of the backbone, the stem first, that do not learn at all.
        divisor: channels of the backbone slim in multiples of it.
    """

    def __init__(
        self, rcnn: nn.Module, *, frozen: bool = False, frozen_stages: Sequence[nn.Module] = (), divisor: int = 8
    ) -> None:
        super().__init__()
        parts = cast(Any, rcnn)
        self.transform, self.backbone, self.rpn, self.roi_heads = (
            parts.transform, parts.backbone, parts.rpn, parts.roi_heads,
        )  # fmt: skip
        self.frozen, self.divisor = frozen, divisor
        still = [m for m in self.backbone.modules() if isinstance(m, NORMS)] if frozen else []
        for module in [*still, *frozen_stages]:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Detector:
        """Set the mode; frozen BatchNorms stay in eval mode."""
        super().train(mode)
        if self.frozen:
            for module in self.backbone.modules():
                if isinstance(module, NORMS):
                    module.eval()
        return self

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]] | None = None,
        regions: Regions | None = None,
    ) -> Any:
        """See the class; `regions`: everything that a fixed number of regions would take, for counting.

        Args:
            images: each [3, H, W], in [0, 1].
            targets: of each image, in training: boxes [n, 4], labels [n], and masks [n, H, W] or keypoints [n, k, 3].
        """
        sizes = [tuple(image.shape[-2:]) for image in images]
        batch, scaled = self.transform(images, targets)
        features = self.backbone(batch.tensors)
        if regions is not None:
            return self._count(features, regions)
        proposals, of_proposals = self.rpn(batch, features, scaled)
        found, of_regions = self.roi_heads(features, proposals, batch.image_sizes, scaled)
        if not self.training:
            return self.transform.postprocess(found, batch.image_sizes, sizes)
        return Learned(
            of_proposals | of_regions, dict(features), proposals, (self.rpn.head, self.roi_heads, batch.image_sizes)
        )

    def _count(self, features: Mapping[str, Tensor], regions: Regions) -> list[Any]:
        """The outputs of all heads; what is pooled costs no multiply-adds, and is empty here."""
        heads, level = self.roi_heads, next(iter(features.values()))

        def pooled(pool: Any, count: int) -> Tensor:
            return level.new_zeros(count * len(level), level.shape[1], *pool.output_size)

        outputs = [self.rpn.head(list(features.values()))]
        outputs.append(heads.box_predictor(heads.box_head(pooled(heads.box_roi_pool, regions.boxes))))
        for kind in ("mask", "keypoint"):
            if getattr(heads, f"has_{kind}")():
                head, last = getattr(heads, f"{kind}_head"), getattr(heads, f"{kind}_predictor")
                outputs.append(last(head(pooled(getattr(heads, f"{kind}_roi_pool"), regions.others))))
        return outputs

    def thaw(self) -> None:
        """Let BatchNorms learn, and take the statistics of each batch."""
        for module in self.backbone.modules() if self.frozen else ():
            if isinstance(module, NORMS):
                module.requires_grad_()
        self.frozen = False

    @property
    def shared(self) -> tuple[str, ...]:
        """Names of the layers whose outputs stay full at every width: all of the pyramid and the heads."""
        layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        return tuple(
            name for name, module in self.named_modules()
            if isinstance(module, layers) and not name.startswith("backbone.body.")
        )  # fmt: skip


def build_detector(
    classifier: Classifier, model: str, plan: Plan, *, frozen: bool = False, frozen_stages: int = 0
) -> Detector:
    """A detector over the features of a dense ResNet, whose classifier is left out.

    Args:
        classifier: of `slimlib.models.build`.
        model: its name there.
        plan: what the detector is.
        frozen: see `Detector`.
        frozen_stages: so many of stem and stages do not learn.
    """
    body, ends = classifier.features, _ends(model)
    channels = [_outputs(body[end]) for end in ends]
    backbone = tv.models.detection.backbone_utils.BackboneWithFPN(
        body, {str(end): str(level) for level, end in enumerate(ends)}, channels, plan.pyramid
    )
    starts = [0, 1, *(end + 1 for end in ends[:-1])]
    still = list(body)[: (*starts, len(body))[frozen_stages]]
    divisor = classifier.channel_rule["divisor"]
    return Detector(_rcnn(backbone, plan), frozen=frozen, frozen_stages=still, divisor=divisor)


def _ends(model: str) -> list[int]:
    """Positions in the features of the last block of each stage; the stem is at 0."""
    repeats = DEPTHS[model].repeats
    return [sum(repeats[: stage + 1]) for stage in range(len(repeats))]


def _outputs(block: nn.Module) -> int:
    convolutions = [m for m in block.body.modules() if isinstance(m, nn.Conv2d)]  # type: ignore[union-attr]
    return convolutions[-1].out_channels


def _rcnn(backbone: nn.Module, plan: Plan) -> nn.Module:
    detection, names = tv.models.detection, [str(level) for level in range(LEVELS)]
    anchors = tuple((plan.anchor * 2**level,) for level in range(LEVELS + 1))

    def pool(size: int) -> nn.Module:
        made: nn.Module = tv.ops.MultiScaleRoIAlign(names, size, 2, canonical_scale=7 * plan.anchor)
        return made

    shared: dict[str, Any] = {
        "min_size": plan.sides,
        "max_size": plan.longest,
        "rpn_anchor_generator": detection.anchor_utils.AnchorGenerator(anchors, ((0.5, 1.0, 2.0),) * len(anchors)),
        "rpn_pre_nms_top_n_train": plan.proposals[0],
        "rpn_post_nms_top_n_train": plan.proposals[0],
        "rpn_pre_nms_top_n_test": plan.proposals[1],
        "rpn_post_nms_top_n_test": plan.proposals[1],
        "rpn_batch_size_per_image": plan.sampled[0],
        "box_batch_size_per_image": plan.sampled[1],
        "box_roi_pool": pool(7),
        "box_head": detection.faster_rcnn.TwoMLPHead(49 * plan.pyramid, plan.hidden),
        "box_predictor": detection.faster_rcnn.FastRCNNPredictor(plan.hidden, plan.classes + 1),
    }
    channels = plan.pyramid
    if plan.head == "masks":
        own = {
            "mask_roi_pool": pool(14),
            "mask_head": detection.mask_rcnn.MaskRCNNHeads(channels, (channels,) * 4, 1),
            "mask_predictor": detection.mask_rcnn.MaskRCNNPredictor(channels, channels, plan.classes + 1),
        }
        return cast(nn.Module, detection.MaskRCNN(backbone, **shared, **own))
    if plan.head == "keypoints":
        own = {
            "keypoint_roi_pool": pool(14),
            "keypoint_head": detection.keypoint_rcnn.KeypointRCNNHeads(channels, (2 * channels,) * 8),
            "keypoint_predictor": detection.keypoint_rcnn.KeypointRCNNPredictor(2 * channels, plan.keypoints),
        }
        return cast(nn.Module, detection.KeypointRCNN(backbone, **shared, **own))
    return cast(nn.Module, detection.FasterRCNN(backbone, **shared))
