"""Tasks made from plain settings: what decides a result, what is left out, and where results lie."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.records.folder import record_folders
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


@pytest.mark.parametrize(
    ("algorithm", "left_out"), [("a2c", {"ratio"}), ("dqn", {"ratio", "certainty"}), ("ppo", set())]
)
def test_what_an_algorithm_cannot_train_is_left_out_with_a_note_or_refused_by_name(
    algorithm: str, left_out: set[str]
) -> None:
    words = ["task=rl", "ablation=stability", f"task.algorithm={algorithm}"]
    distilled = ["task=rl", "ablation=distillation", f"task.algorithm={algorithm}"]
    assert ("outputs and values" in {r.name for r in read_settings(distilled).recipes}) == (algorithm != "dqn")
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        made = read_settings(words)
    kept = {recipe.name for recipe in made.recipes}
    stabilities = {recipe.name: recipe.stability for recipe in read_settings(words[:2]).recipes}
    assert set(stabilities) - kept == {name for name, its in stabilities.items() if its in left_out}
    assert len(noted) == len(set(stabilities) - kept)
    for name in set(stabilities) - kept:
        with pytest.raises(ValueError, match=f"recipe '{name}': Slim{algorithm.upper()} has no stability"):
            read_settings([*words, f"only=['{name}']"])


@pytest.mark.parametrize(
    ("words", "deeper"),
    [
        ([], []),
        (["task.head=boxes"], []),
        (["task.head=masks"], ["masks"]),
        (["data=coco", "data.root=there", "task.head=keypoints"], ["coco", "keypoints"]),
    ],
)
def test_results_of_other_data_and_heads_lie_deeper_and_are_found(
    words: list[str], deeper: list[str], tmp_path: Path
) -> None:
    made = read_settings(["task=detection", "ablation=switches", f"results={tmp_path}", *words])
    assert made.folder == tmp_path.joinpath("detection", "switches", "tiny", *deeper)
    assert made.folder_of("features") == tmp_path.joinpath("detection", "features", "tiny", *deeper)
    (made.folder / "records").mkdir(parents=True)
    assert list(record_folders(tmp_path)) == [made.folder.relative_to(tmp_path)]
