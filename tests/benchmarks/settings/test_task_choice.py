"""Tasks made from plain settings, and what of the settings decides a result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.settings.run import read_settings
from benchmarks.settings.task import TASKS, deciding, make_task, read_task
from tasks.task import SupervisedTask


def first_tensor(tree: Any) -> Tensor:
    return next(leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


@pytest.mark.parametrize("task", TASKS)
def test_the_tiny_task_is_made_from_what_the_files_say(task: str) -> None:
    few = ["task.images=8", "task.held_out=8"] if task == "detection" else []  # they are drawn
    settings = read_settings([f"task={task}", *few])
    made = make_task(task, settings.task_settings)
    assert made.name == task
    assert made.widths == tuple(settings.task_settings["widths"])
    assert first_tensor(made.example()).shape[0] in (1, 3)  # one image, or the colours of one in a list
    if isinstance(made, SupervisedTask):
        x, _ = next(iter(made.batches(range(1), 0)))
        assert first_tensor(x).shape[1:] == first_tensor(made.example()).shape[1:]


@pytest.mark.parametrize("data", ["cifar10", "imagenette", "imagenet", "folder"])
def test_classification_takes_each_of_its_data(data: str, tmp_path: Path) -> None:
    settings = read_settings(["task=classification", f"data={data}", f"data.root={tmp_path}"])
    assert (settings.task_settings["data"], settings.task_settings["root"]) == (data, str(tmp_path))
    assert settings.folder == Path("results/classification/sandwich/tiny") / data


def test_data_of_another_task_are_refused_with_the_right_ones() -> None:
    with pytest.raises(ValueError, match="data=photos is for task=sr; task=classification takes cifar10, digits"):
        read_settings(["task=classification", "data=photos"])


def test_what_only_changes_speed_or_place_does_not_decide(tmp_path: Path) -> None:
    def decides(*given: str, root: str) -> dict[str, object]:
        settings = read_settings(["task=classification", "data=imagenet", f"data.root={root}", *given])
        return deciding(settings.task, settings.task_settings)

    here = decides(root="/a/imagenet")
    assert here == decides("task.workers=3", "task.cache_gb=9", root="/b/c/imagenet")
    assert {"workers", "cache_gb"}.isdisjoint(here)
    assert here != decides("task.lr=0.3", root="/a/imagenet")


def test_misspelt_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown task 'clasification'; did you mean 'classification'"):
        read_task("clasification", {})
    with pytest.raises(ValueError, match="unknown key 'task.model_name'; did you mean 'task.model'"):
        read_task("classification", {"model_name": "resnet18"})


def test_a_task_is_imported_only_when_chosen() -> None:
    code = "import sys, benchmarks.settings.task; sys.exit(any(m.startswith('tasks.sr') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0
