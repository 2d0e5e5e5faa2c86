"""Everything that decides a classification run, checked once when it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import model_validator

from tasks.settings import Fractions, OneOfWhole, Settings, Widths, setting

VARIANTS = (224, 64, 32)
BelowOne: dict[str, Any] = {"ge": 0, "lt": 1}
UpToOne: dict[str, Any] = {"ge": 0, "le": 1}


class ClassificationSettings(Settings):
    """How well does one network tell images apart at every width?

    The defaults are US-MobileNet v1 on ImageNet, as published. The other published recipes, on data=imagenet, whose
    epoch has 1,281,167 images:

        S-MobileNet v1, v2    steps=3843501 task.batch=160 task.lr=0.045 task.schedule=exponential
        S-ShuffleNet          task.model=shufflenet_v1
        S-ResNet-50           steps=500455 task.model=resnet50 task.batch=256 task.lr=0.1 task.schedule=step
                              task.area=0.08
        US-MobileNet v2       task.model=mobilenet_v2 smallest=0.35 task.widths=[0.35,0.5,0.75,1.0]
        AutoSlim, MobileNets  steps=187671 task.batch=2048 task.label_smoothing=0.1
        AutoSlim, ResNet-50   as S-ResNet-50, and task.label_smoothing=0.1

    Source: Yu & Huang 2019 (US-Nets), sec. 4.1.
    """

    group: ClassVar[str] = "task"
    tunable: ClassVar[tuple[str, ...]] = ("lr", "momentum", "weight_decay", "warmup", "schedule", "decay")

    model: Literal[
        "mobilenet_v1",
        "mobilenet_v2",
        "mnasnet",
        "shufflenet_v1",
        "resnet8",
        "resnet18",
        "resnet50",
        "ds_mobilenet",
        "ds_resnet50",
    ] = setting("mobilenet_v1", "a network of slimlib.models")
    multiplier: float = setting(1.0, "channels, as a multiple of the published; widths are fractions of them", gt=0)
    divisor: int = setting(0, "channels are rounded to multiples of it; 0: as published for the model", ge=0)
    size: int = setting(224, "height and width of the network's input, in pixels", ge=1)
    variant: Annotated[Literal[0, 224, 64, 32], OneOfWhole] = setting(
        0, "strides as for images of about this size; 0: the nearest to size"
    )
    widths: Widths = setting((0.25, 0.5, 0.75, 1.0), "the widths that are evaluated")
    batch: int = setting(1024, "images a step", ge=1)
    lr: float = setting(0.5, "the highest learning rate of SGD", gt=0, examples=[0.1])
    momentum: float = setting(0.9, "momentum of SGD", **BelowOne)
    nesterov: bool = setting(True, "whether the momentum is Nesterov's")
    weight_decay: float = setting(
        1e-4,
        "weight decay; none for depthwise kernels, norms and biases",
        **BelowOne,
    )
    schedule: Literal["linear", "step", "exponential", "cosine"] = setting(
        "linear", "how the learning rate falls: linearly to 0, at milestones, after every epoch, or as a cosine"
    )
    milestones: Fractions = setting(
        (), "fractions of the steps after which the rate is multiplied; none: 0.3, 0.6, 0.9",
        only_for={"schedule": ["step"]}, examples=[[0.3, 0.6, 0.9]],
    )  # fmt: skip
    decay: float = setting(
        0.0, "the factor at each milestone, or of an epoch; 0: as published (0.1, 0.98)",
        only_for={"schedule": ["step", "exponential"]}, examples=[0.1], **BelowOne,
    )  # fmt: skip
    warmup: float = setting(
        0.0, "fraction of the steps in which the rate rises from 0 to what the schedule says",
        examples=[0.05], **BelowOne,
    )  # fmt: skip
    label_smoothing: float = setting(0.0, "probability spread evenly over all classes", examples=[0.1], **BelowOne)
    crop: Literal["resized", "padded", "none"] = setting(
        "resized", "how training images are cropped: a random box, scaled; moved over a black rim; or not at all"
    )
    area: float = setting(
        0.0, "least part of the image's area in the box; 0: as published for MobileNets (0.25)",
        only_for={"crop": ["resized"]}, examples=[0.25], **UpToOne,
    )  # fmt: skip
    padding: int = setting(
        0, "width of the rim in pixels; 0: as usual on CIFAR-10 (4)", only_for={"crop": ["padded"]}, ge=0
    )
    flip: bool = setting(True, "whether training images are mirrored at random")
    jitter: float = setting(0.4, "brightness, contrast and saturation vary by up to this factor; 0: none", **UpToOne)
    lighting: float = setting(
        0.1, "deviation of the colour noise along the principal components of ImageNet's colours; 0: none", **UpToOne
    )
    normalisation: Literal["imagenet", "data"] = setting(
        "imagenet", "whose mean and deviation images are normalised by"
    )
    resize: int = setting(
        0,
        "of scored images: shorter side before the central crop of size; 0: 256/224 of size, or size for small images",
        ge=0,
    )
    data: Literal["digits", "cifar10", "imagenette", "imagenet", "folder"] = setting(
        "imagenet", "where the images come from", group=""
    )
    root: str = setting("", "the folder that holds the images", group="data")
    hold_out: int = setting(
        0, "training images that are held out and scored as the set search, to choose settings", ge=0
    )
    workers: int = setting(0, "processes that decode images; 0: this one", ge=0)
    cache_gb: float = setting(1.0, "decoded images kept in memory, in GB: of sets of square images of one size", ge=0)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("task.nesterov=true needs a momentum; set task.nesterov=false for plain SGD")
        if self.resize and self.resize < self.size:
            raise ValueError(f"task.resize={self.resize}: no crop of task.size={self.size} fits; give at least that")
        if self.data == "digits" and self.root:
            raise ValueError(f"data=digits ships with its package and would ignore data.root={self.root}")
        if self.data != "digits" and not self.root:
            raise ValueError(f"data={self.data} needs data.root, the place of the images")
        return self

    def places(self) -> list[Path]:
        """Of data.root what is read: of several forms of CIFAR-10 one."""
        from tasks.classification.cifar10 import find_cifar10

        root = Path(self.root).expanduser()
        if self.data == "cifar10":
            return [place for place in [find_cifar10(root)] if place is not None]
        if self.data == "imagenette" and not (root / "train").is_dir():
            return sorted(root.glob("imagenette*"))
        if self.data == "imagenet":
            return [root / "train", root / "val"]
        return [root] if self.data != "digits" else []

    @property
    def built_for(self) -> int:
        """The image size, of `VARIANTS`, that the network's strides are for."""
        return self.variant or min(VARIANTS, key=lambda side: max(side / self.size, self.size / side))
