"""Everything that decides a detection run, checked once when it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tasks.settings import Fractions, Lax, Settings, Widths, each_once, setting

Sides = Annotated[
    tuple[Annotated[int, Field(ge=16)], ...], Lax, Field(min_length=1, examples=[[800]]), AfterValidator(each_once)
]


class DetectionSettings(Settings):
    """How well does one network find objects at every width: their boxes, masks or keypoints?

    The defaults are Faster, Mask and Keypoint R-CNN on COCO as published: ResNet-50, R-50-FPN, 1x.

    Source: Yu et al. 2019 (Slimmable Neural Networks), sec. 4.3; the 1x schedule of MMDetection.
    """

    group: ClassVar[str] = "task"

    head: Literal["boxes", "masks", "keypoints"] = setting(
        "boxes", "what is detected: boxes; with masks or keypoints, these as well"
    )
    model: Literal["resnet18", "resnet50"] = setting("resnet50", "the backbone, a network of slimlib.models")
    multiplier: float = setting(1.0, "channels of the backbone, as a multiple of the published", gt=0)
    divisor: int = setting(0, "channels are rounded to multiples of it; 0: as published for the model", ge=0)
    start: Literal["s_resnet50", "classification", "scratch"] = setting(
        "s_resnet50", "weights of the backbone: published, those of a run of task=classification, or none"
    )
    weights: str = setting(
        "", "the file: the published .pt or zip, or the .safetensors that the run has kept",
        only_for={"start": ["s_resnet50", "classification"]},
    )  # fmt: skip
    norm: Literal["auto", "frozen", "batch", "group"] = setting(
        "auto", "BatchNorm of the backbone: frozen, trained, or GroupNorm instead; auto: frozen, from scratch group"
    )
    frozen_stages: int = setting(
        1, "number of first stages, the stem included, that keep their initial weights", ge=0, le=5
    )
    pyramid: int = setting(256, "channels of the levels of the pyramid", ge=1)
    hidden: int = setting(1024, "features of the box head", ge=1)
    anchor: int = setting(32, "side of the smallest anchors, in pixels; each level doubles it", ge=1)
    sides: Sides = setting((800,), "shorter side that images are scaled to; of several, one at random in training")
    longest: int = setting(1333, "longer side of an image at most", ge=16)
    proposals: int = setting(2000, "regions that may be objects in training; in evaluation half as many", ge=2)
    sampled: int = setting(512, "regions of an image that the heads learn from; half as many anchors", ge=2)
    widths: Widths = setting((0.25, 0.5, 0.75, 1.0), "the widths that are evaluated")
    batch: int = setting(16, "images a step", ge=1)
    optimizer: Literal["sgd", "adamw"] = setting("sgd", "SGD as published; AdamW learns faster from scratch")
    lr: float = setting(0.02, "the highest learning rate", gt=0, examples=[0.02])
    momentum: float = setting(0.9, "momentum of SGD", ge=0, lt=1, only_for={"optimizer": ["sgd"]})
    weight_decay: float = setting(1e-4, "weight decay", ge=0, lt=1)
    warmup: int = setting(500, "steps in which the rate rises from a third to what the milestones say", ge=0)
    milestones: Fractions = setting((2 / 3, 11 / 12), "fractions of the steps after which the rate is a tenth")
    flip: bool = setting(True, "whether training images are mirrored at random")
    data: Literal["shapes", "coco", "folder"] = setting("coco", "where the images come from", group="")
    root: str = setting("", "the folder that holds the images and their annotations", group="data")
    images: int = setting(1000, "shapes: number of training images", ge=1)
    held_out: int = setting(200, "shapes: number of evaluation images", ge=1)
    side: int = setting(96, "shapes: height and width", ge=32)
    workers: int = setting(0, "processes that read images; 0: this one", ge=0)
    cache_gb: float = setting(1.0, "decoded images kept in memory, in GB, for each set", ge=0)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.data == "shapes" and self.root:
            raise ValueError(f"data=shapes is drawn and would ignore data.root={self.root}")
        if self.data != "shapes" and not self.root:
            raise ValueError(f"data={self.data} needs data.root, the folder that holds the images and annotations")
        if self.start == "s_resnet50" and (self.model != "resnet50" or self.multiplier != 1):
            raise ValueError("task.start=s_resnet50 is of task.model=resnet50 at task.multiplier=1; or start=scratch")
        if self.start == "scratch" and self.norm == "frozen":
            raise ValueError("task.norm=frozen would keep statistics that fit nothing from scratch; use group or batch")
        if self.start != "scratch" and not self.weights:
            raise ValueError(f"task.start={self.start} needs task.weights=<file>, or use task.start=scratch")
        if max(self.sides) > self.longest:
            raise ValueError(f"task.longest={self.longest} is below task.sides={list(self.sides)}")
        return self

    def own_folder(self) -> tuple[str, ...]:
        """Masks and keypoints have scores of their own."""
        return () if self.head == "boxes" else (self.head,)

    def places(self) -> list[Path]:
        """The images and annotations, and the weights that the backbone starts with."""
        root = Path(self.root).expanduser()
        weights = [Path(self.weights).expanduser()] if self.weights else []
        if self.data != "coco":
            return [root, *weights] if self.data == "folder" else weights
        parts = ("train2017", "val2017")
        return [*(root / part for part in parts), *(self.annotations(root, part) for part in parts), *weights]

    def annotations(self, root: Path, part: str) -> Path:
        """The file of COCO that is read for train2017 or val2017."""
        kind = "person_keypoints" if self.head == "keypoints" else "instances"
        return root / "annotations" / f"{kind}_{part}.json"

    @property
    def normalised_by(self) -> str:
        """The norm, decided."""
        return self.norm if self.norm != "auto" else "group" if self.start == "scratch" else "frozen"
