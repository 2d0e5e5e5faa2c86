"""What a task shows of a network lies beside the records, with the network's name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from benchmarks.runner import run
from tasks.task import Showcase
from tests.benchmarks.running.toy_run import RECIPES, toy_settings
from tests.tasks.training.toy import ToyTask


class Showing(ToyTask):
    """Shows which networks it was given."""

    def showcase(self, nets: Mapping[str, Callable[[Tensor], Tensor]]) -> Showcase:
        return Showcase(Figure(), {f"crops/{label}.txt": label.encode() for label in nets})


def test_figure_and_further_files_are_written_and_say_whose_they_are(tmp_path: Path) -> None:
    settings = toy_settings(tmp_path)
    assert run(settings, Showing, Console(quiet=True)) == 0
    shown = settings.folder
    assert {"showcase.png", "showcase.svg", "showcase.json"} <= {path.name for path in shown.iterdir()}
    assert {path.name for path in (shown / "crops").iterdir()} == {f"width {w}.txt" for w in ("0.5", "0.75", "1")}
    named = json.loads((shown / "showcase.json").read_text())
    assert (named["recipe"], named["seed"]) == ("sandwich", 0)
    assert list((shown / "records").glob(f"sandwich-0-{named['hash']}.json"))


def test_the_showcase_is_of_the_last_settings_and_whole(tmp_path: Path) -> None:
    found = []
    for steps in (2, 3, 2):
        settings = toy_settings(tmp_path, steps=steps)
        assert run(settings, Showing, Console(quiet=True)) == 0
        found.append((settings.folder / "showcase.json").read_text())
    assert found[0] == found[2] != found[1]
    (settings.folder / "showcase.json").unlink()
    assert run(settings, Showing, Console(quiet=True)) == 0
    assert (settings.folder / "showcase.json").read_text() == found[2]


def test_a_task_with_nothing_to_see_writes_nothing(tmp_path: Path) -> None:
    settings = toy_settings(tmp_path, seeds=(0,), recipes=RECIPES[:1])
    assert run(settings, ToyTask, Console(quiet=True)) == 0
    assert not list(settings.folder.glob("showcase.*"))
