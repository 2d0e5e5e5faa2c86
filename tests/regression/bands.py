"""`python -m tests.regression.bands`: train what the regression tests train, and store the bands they compare with."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.run import main
from benchmarks.settings import read_settings
from benchmarks.task_choice import make_task
from tasks.supervised import train_recipe

SHORT, SANDWICH = "sr_tiny.csv", "sr_sandwich_tiny.csv"
TOLERANCE = {"psnr": 0.4, "ssim": 0.02}  # processors differ in the last bit, and training spreads it


def short_arguments(results: Path) -> list[str]:
    return ["task=sr", "ablation=sandwich", "steps=150", f"results={results}"]


def full_sandwich() -> dict[float, float]:
    """PSNR at each width of the sandwich recipe, trained as long as scale `tiny` trains it."""
    settings = read_settings(["task=sr", "ablation=sandwich"])
    recipe = next(recipe for recipe in settings.recipes if recipe.name == "sandwich")
    task = make_task(settings.task, settings.task_settings)
    results = train_recipe(task, recipe, steps=settings.steps, seed=0)
    return {result.width: result.metrics["photos"]["psnr"] for result in results}


def store() -> None:
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        if main(short_arguments(Path(folder))) != 0:
            raise SystemExit("the short run failed; no band was stored")
        shutil.copy(Path(folder) / "sr/sandwich/tiny/table.csv", here / SHORT)
    table = pd.read_csv(here / SHORT).query("recipe == 'bicubic' and metric == 'psnr'")
    scores: dict[object, float] = {"bicubic": float(table["mean"].iloc[0]), **full_sandwich()}
    pd.Series(scores, name="psnr").rename_axis("width").to_csv(here / SANDWICH)


if __name__ == "__main__":
    store()
