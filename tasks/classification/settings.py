"""Everything that decides a classification run, checked once when it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from slimlib.models import NAMES
from tasks.choices import as_tuple, check_choice, check_number, check_text, check_whole
from tasks.classification.sources import DATA

VARIANTS = (224, 64, 32)
SCHEDULES = ("linear", "step", "exponential", "cosine")
CROPS = ("resized", "padded", "none")
NORMALISATIONS = ("imagenet", "data")
WITHOUT_ROOT = ("digits",)  # data that ship with a package

# Keys that only one choice of another key reads: given with another choice they are refused, not ignored.
BELONGS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "milestones": ("schedule", ("step",)),
    "decay": ("schedule", ("step", "exponential")),
    "area": ("crop", ("resized",)),
    "padding": ("crop", ("padded",)),
}


@dataclass(frozen=True)
class ClassificationSettings:
    """Settings of the classification task. The defaults are the published recipe of US-MobileNet v1 on ImageNet.

    Args:
        model: a network of `slimlib.models`.
        multiplier: of the channels of the full network; narrow widths are fractions of these.
        divisor: channels are rounded to multiples of it; 0: as published for the model.
        size: height and width of what enters the network, in pixels.
        variant: 224, 64 or 32: strides for images of about that size; 0: the nearest to `size`.
        widths: the widths that are evaluated.
        batch: images a step.
        lr: the highest learning rate of SGD.
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: of convolutions and linear layers; depthwise kernels, norms and biases have none.
        schedule: of the learning rate: "linear" to 0, "step", "exponential" (every epoch) or "cosine".
        milestones: step: fractions of the steps after which the rate is multiplied; none: 0.3, 0.6, 0.9.
        decay: that factor; exponential: the factor of an epoch; 0: as published (0.1, 0.98).
        warmup: fraction of the steps in which the learning rate rises from 0 to what the schedule says.
        label_smoothing: probability that is spread evenly over all classes.
        crop: of training images: "resized" (a random box, scaled), "padded" (moved over a black rim) or "none".
        area: resized: least part of the image's area in the box; 0: as published for MobileNets (0.25).
        padding: padded: width of the rim in pixels; 0: as usual on CIFAR-10 (4).
        flip: whether training images are mirrored at random.
        jitter: brightness, contrast and saturation vary by up to this factor; 0: none.
        lighting: deviation of the colour noise along the principal components of ImageNet's colours; 0: none.
        normalisation: mean and deviation are those of "imagenet", or measured on the training "data".
        resize: evaluation: shorter side before the central crop of `size`; 0: 256/224 of `size`, or `size` where all
            images have one side that is no larger.
        data: "digits" (ship with scikit-learn), "cifar10", "imagenette", "imagenet" or "folder" (a folder a class).
        root: where the data lie.
        hold_out: training images that are kept back and scored as the set "search", to choose settings by.
        workers: processes that decode images; 0: this one.
        cache_gb: decoded images kept in memory, in GB.

    Raises:
        ValueError: a value is impossible or without effect; the message names a right one.

    Source: Yu & Huang 2019 (US-Nets), sec. 4.1.
    """

    model: str = "mobilenet_v1"
    multiplier: float = 1.0
    divisor: int = 0
    size: int = 224
    variant: int = 0
    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    batch: int = 1024
    lr: float = 0.5
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    schedule: str = "linear"
    milestones: tuple[float, ...] = ()
    decay: float = 0.0
    warmup: float = 0.0
    label_smoothing: float = 0.0
    crop: str = "resized"
    area: float = 0.0
    padding: int = 0
    flip: bool = True
    jitter: float = 0.4
    lighting: float = 0.1
    normalisation: str = "imagenet"
    resize: int = 0
    data: str = "imagenet"
    root: str = ""
    hold_out: int = 0
    workers: int = 0
    cache_gb: float = 1.0

    def __post_init__(self) -> None:
        for name in ("widths", "milestones"):
            object.__setattr__(self, name, as_tuple(f"task.{name}", getattr(self, name)))
        for name, options in _CHOICES.items():
            check_choice(name if name == "data" else f"task.{name}", getattr(self, name), options)
        for name, least in _WHOLE.items():
            check_whole(f"task.{name}", getattr(self, name), at_least=least)
        for name, (allowed, expected) in _NUMBERS.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                check_number(f"task.{name}", number, allowed, expected)
        check_text("data.root", self.root)
        for name in ("nesterov", "flip"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"task.{name}={getattr(self, name)!r} must be true or false")
        self._check_together()

    def _check_together(self) -> None:
        if not self.widths or len(set(self.widths)) < len(self.widths):
            raise ValueError(f"task.widths={list(self.widths)}: needs at least one width, each only once")
        if self.nesterov and not self.momentum:
            raise ValueError("task.nesterov=true needs a momentum; set task.nesterov=false for plain SGD")
        if self.resize and self.resize < self.size:
            raise ValueError(f"task.resize={self.resize}: no crop of task.size={self.size} fits; give at least that")
        for name, (owner, choices) in BELONGS.items():
            if getattr(self, name) and getattr(self, owner) not in choices:
                raise ValueError(
                    f"task.{name} has no meaning for task.{owner}={getattr(self, owner)}; "
                    f"it belongs to task.{owner}={' or '.join(choices)}"
                )
        if self.data in WITHOUT_ROOT and self.root:
            raise ValueError(f"data={self.data} ships with its package and would ignore data.root={self.root}")
        if self.data not in WITHOUT_ROOT and not self.root:
            raise ValueError(f"data={self.data} needs data.root, the place of the images")

    @property
    def built_for(self) -> int:
        """The image size, of `VARIANTS`, that the network's strides are for."""
        return self.variant or min(VARIANTS, key=lambda side: max(side / self.size, self.size / side))


_CHOICES: Mapping[str, Iterable[object]] = {
    "model": NAMES,
    "variant": (0, *VARIANTS),
    "schedule": SCHEDULES,
    "crop": CROPS,
    "normalisation": NORMALISATIONS,
    "data": DATA,
}
_WHOLE = {"divisor": 0, "size": 1, "batch": 1, "padding": 0, "resize": 0, "hold_out": 0, "workers": 0}
_NUMBERS: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "multiplier": (lambda v: 0 < v < float("inf"), "above 0, for example 1.0"),
    "widths": (lambda v: 0 < v <= 1, "above 0 and at most 1, for example [0.25, 0.5, 1.0]"),
    "lr": (lambda v: 0 < v < float("inf"), "above 0, for example 0.1"),
    "momentum": (lambda v: 0 <= v < 1, "from 0 to below 1, for example 0.9"),
    "weight_decay": (lambda v: 0 <= v < 1, "from 0 to below 1, for example 0.0001"),
    "milestones": (lambda v: 0 < v < 1, "fractions of the steps, for example [0.3, 0.6, 0.9]"),
    "decay": (lambda v: 0 <= v < 1, "from 0 (as published) to below 1, for example 0.1"),
    "warmup": (lambda v: 0 <= v < 1, "a fraction of the steps, for example 0.05"),
    "label_smoothing": (lambda v: 0 <= v < 1, "from 0 to below 1, for example 0.1"),
    "area": (lambda v: 0 <= v <= 1, "from 0 (as published) to 1, for example 0.25"),
    "jitter": (lambda v: 0 <= v <= 1, "from 0 to 1, for example 0.4"),
    "lighting": (lambda v: 0 <= v <= 1, "from 0 to 1, for example 0.1"),
    "cache_gb": (lambda v: v >= 0, "at least 0, for example 1.0"),
}
