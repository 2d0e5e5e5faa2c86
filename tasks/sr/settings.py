"""Everything that decides an SR run, checked once when it is made."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.choices import as_tuple, check_choice, check_number, check_text, check_whole
from tasks.sr.metrics import PROTOCOLS

MODELS = ("wdsr-a", "wdsr-b", "edsr")
SCALES = (2, 3, 4)
DATA = ("photos", "folder", "benchmark")


@dataclass(frozen=True)
class SrSettings:
    """Settings of the super-resolution task. The defaults are the published WDSR-A on packaged photographs.

    Args:
        model: "wdsr-a", "wdsr-b" or "edsr".
        scale: 2, 3 or 4.
        features: channels of the identity path at full width.
        blocks: residual blocks.
        expansion: channels before the activation, as a multiple of `features`; 0: as published (4, 6, 1).
        divisor: channels are rounded to multiples of it.
        widths: the widths that are evaluated.
        patch: height and width of a training patch, in low-resolution pixels.
        batch: patches a step.
        lr: learning rate of Adam; 0: as published (0.001 with weight normalisation, 0.0001 without).
        milestones: fractions of the steps after which the learning rate is multiplied by `decay`.
        decay: that factor.
        protocol: "y" (luma, border = scale) or "rgb" (border = scale + 6).
        data: "photos" (they ship with scikit-image and scikit-learn), "folder" (any images) or "benchmark".
        root: folder: the images, or DIV2K's root. benchmark: holds train/<set> and test/<set>.
        train_sets: benchmark: the sets below `root`/train.
        eval_sets: benchmark: the sets below `root`/test; folder: paths of sets (none: some of `root` are held out).
        cache_gb: decoded images kept in memory, in GB, for training and for each evaluation set.

    Raises:
        ValueError: a value is impossible; the message names the nearest right one.
    """

    model: str = "wdsr-a"
    scale: int = 2
    features: int = 32
    blocks: int = 16
    expansion: int = 0
    divisor: int = 8
    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    patch: int = 48
    batch: int = 16
    lr: float = 0.0
    milestones: tuple[float, ...] = (0.5, 0.75, 0.9)
    decay: float = 0.5
    protocol: str = "y"
    data: str = "photos"
    root: str = ""
    train_sets: tuple[str, ...] = ("T91", "BSD200")
    eval_sets: tuple[str, ...] = ()
    cache_gb: float = 1.0

    def __post_init__(self) -> None:
        for name in ("widths", "milestones", "train_sets", "eval_sets"):
            object.__setattr__(self, name, as_tuple(f"task.{name}", getattr(self, name)))
        for name, options in (("model", MODELS), ("scale", SCALES), ("protocol", PROTOCOLS), ("data", DATA)):
            check_choice(f"task.{name}", getattr(self, name), options)
        check_text("data.root", self.root)
        for name in ("train_sets", "eval_sets"):
            for place in getattr(self, name):
                check_text(f"a name in data.{name}", place)
        least_of = {"scale": 2, "features": 1, "blocks": 1, "expansion": 0, "divisor": 1, "patch": 8, "batch": 1}
        for name, least in least_of.items():
            check_whole(f"task.{name}", getattr(self, name), at_least=least)
        check_number("task.lr", self.lr, lambda v: 0 <= v <= 1, "from 0 (as published) to 1, for example 0.001")
        check_number("task.decay", self.decay, lambda v: 0 < v <= 1, "above 0 and at most 1, for example 0.5")
        check_number("task.cache_gb", self.cache_gb, lambda v: v >= 0, "at least 0, for example 1.0")
        for width in self.widths:
            check_number(
                "task.widths", width, lambda v: 0 < v <= 1, "above 0 and at most 1, for example [0.25, 0.5, 1.0]"
            )
        for milestone in self.milestones:
            check_number(
                "task.milestones", milestone, lambda v: 0 < v < 1, "fractions of the steps, for example [0.5, 0.75]"
            )
        if not self.widths or len(set(self.widths)) < len(self.widths):
            raise ValueError(f"task.widths={list(self.widths)}: needs at least one width, each only once")
        if self.data == "photos" and (self.root or self.eval_sets):
            raise ValueError(
                "data.root and data.eval_sets need data=folder or data=benchmark; data=photos would ignore them"
            )
        if self.data != "photos" and not self.root:
            raise ValueError(f"data={self.data} needs data.root, the folder that holds the images")
        if self.data == "benchmark" and not self.train_sets:
            raise ValueError("data.train_sets is empty; for example [T91, BSD200]")
