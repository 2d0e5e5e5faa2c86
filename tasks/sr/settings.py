"""Everything that decides an SR run, checked once when it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import model_validator

from tasks.settings import Fractions, OneOfWhole, Settings, Widths, Words, setting

BENCHMARK_SETS = ("Set5", "Set14", "B100")


class SrSettings(Settings):
    """How well does one network upscale photographs at every width?

    The defaults are WDSR-A as published, on photographs that come with packages.
    """

    group: ClassVar[str] = "task"
    tunable: ClassVar[tuple[str, ...]] = ("lr", "decay")

    model: Literal["wdsr-a", "wdsr-b", "edsr"] = setting("wdsr-a", "which network")
    scale: Annotated[Literal[2, 3, 4], OneOfWhole] = setting(2, "how much larger the image becomes")
    features: int = setting(32, "channels of the identity path at full width", ge=1)
    blocks: int = setting(16, "residual blocks", ge=1)
    expansion: int = setting(
        0, "channels before the activation, as a multiple of features; 0: as published (4, 6, 1)", ge=0
    )
    divisor: int = setting(8, "channels are rounded to multiples of it", ge=1)
    widths: Widths = setting((0.25, 0.5, 0.75, 1.0), "the widths that are evaluated")
    patch: int = setting(48, "height and width of a training patch, in low-resolution pixels", ge=8)
    batch: int = setting(16, "patches a step", ge=1)
    lr: float = setting(
        0.0, "learning rate of Adam; 0: as published (0.001, without weight normalisation 0.0001)",
        ge=0, le=1, examples=[0.001],
    )  # fmt: skip
    milestones: Fractions = setting(
        (0.5, 0.75, 0.9), "fractions of the steps after which the learning rate is multiplied by decay"
    )
    decay: float = setting(0.5, "factor of the learning rate at each milestone", gt=0, le=1)
    protocol: Literal["y", "rgb"] = setting(
        "y", "what PSNR is of: y (luma, border = scale) or rgb (border = scale + 6)"
    )
    data: Literal["photos", "folder", "benchmark"] = setting("photos", "where the images come from", group="")
    root: str = setting("", "folder: the images, or DIV2K; benchmark: holds train/<set> and test/<set>", group="data")
    train_sets: Words = setting(("T91", "BSD200"), "benchmark: the sets below root/train", group="data")
    eval_sets: Words = setting(
        (), "benchmark: sets below root/test; folder: paths of sets (none: some of root are held out)", group="data"
    )
    cache_gb: float = setting(1.0, "decoded images kept in memory, in GB, for each set", ge=0)

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        if self.data == "photos" and (self.root or self.eval_sets):
            raise ValueError(
                "data.root and data.eval_sets need data=folder or data=benchmark; data=photos would ignore them"
            )
        if self.data != "photos" and not self.root:
            raise ValueError(f"data={self.data} needs data.root, the folder that holds the images")
        if self.data == "benchmark" and not self.train_sets:
            raise ValueError("data.train_sets is empty; for example [T91, BSD200]")
        return self

    def places(self) -> list[Path]:
        """The sets below data.root, or the folders."""
        from tasks.sr.folders import places_of

        root = Path(self.root).expanduser()
        folders = [root, *(Path(path).expanduser() for path in self.eval_sets)] if self.data == "folder" else []
        if self.data == "benchmark":
            trained = [root / "train" / name for name in self.train_sets]
            folders = [*trained, *(root / "test" / name for name in self.eval_sets or BENCHMARK_SETS)]
        return [place for folder in folders for place in places_of(folder, self.scale)]
