"""`python -m tests.regression.bands`: train what the regression tests train, and store the bands they compare with."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.run import main
from benchmarks.settings.run import read_settings
from benchmarks.settings.task import make_task
from tasks.training.run import TrainingRun

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Band:
    """What a task's regression test trains, and how far it may be from what is stored.

    Attributes:
        short: arguments of a short run of a whole ablation; its table is `<task>_tiny.csv`.
        few: the recipes that run where the long forms are left out.
        metric, evaluated: what the sandwich recipe of full length is judged by; `<task>_sandwich_tiny.csv`.
        tolerance: of each metric. Processors differ in the last bit, and training spreads it.
        sandwich_tolerance: of the metric after the full length, where it is another.
    """

    task: str
    short: tuple[str, ...]
    few: tuple[str, ...]
    metric: str
    evaluated: str
    tolerance: Mapping[str, float]
    sandwich_tolerance: float | None = None

    @property
    def table(self) -> Path:
        return HERE / f"{self.task}_tiny.csv"

    @property
    def sandwich(self) -> Path:
        return HERE / f"{self.task}_sandwich_tiny.csv"

    def arguments(self, results: Path, *, only: tuple[str, ...] = ()) -> list[str]:
        some = [f"only=[{','.join(only)}]"] if only else []
        return [f"task={self.task}", *self.short, *some, f"results={results}"]

    def written(self, results: Path) -> Path:
        """The folder that the short run writes."""
        ablation = next(a.removeprefix("ablation=") for a in self.short if a.startswith("ablation="))
        return results / self.task / ablation / "tiny"

    def full_sandwich(self) -> dict[float, float]:
        """The metric at each width of the sandwich recipe, trained as long as scale `tiny` trains it."""
        settings = read_settings([f"task={self.task}", "ablation=sandwich"])
        recipe = next(recipe for recipe in settings.recipes if recipe.name == "sandwich")
        task = make_task(settings.task, settings.task_settings)
        results = task.train(recipe, TrainingRun(settings.steps, seed=0))
        return {result.width: result.metrics[self.evaluated][self.metric] for result in results}


SR = Band(
    "sr", ("ablation=sandwich", "steps=75"), ("individual", "sandwich"), "psnr", "photos", {"psnr": 0.4, "ssim": 0.02}
)
DIGITS = Band(
    "classification",
    ("ablation=calibration", "steps=100"),
    ("none", "16 batches"),
    "top1_error",
    "held-out",
    {"top1_error": 6.0, "top5_error": 2.5},
)
CARTPOLE = Band(
    "rl",
    ("ablation=sandwich", "steps=2000"),
    ("individual", "sandwich"),
    "return",
    "CartPole-v1",
    {"return": 25.0},
    sandwich_tolerance=60.0,
)


def store(band: Band) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if main(band.arguments(Path(folder))) != 0:
            raise SystemExit("the short run failed; no band was stored")
        shutil.copy(band.written(Path(folder)) / "table.csv", band.table)
    scores = pd.Series(band.full_sandwich(), name=band.metric)
    scores.rename_axis("width").to_csv(band.sandwich)


if __name__ == "__main__":
    for each in (SR, DIGITS, CARTPOLE):
        store(each)
