"""Steps until a policy solves its environment, from the learning curves of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.records.record import Record, write_record
from benchmarks.running.command import DONE, FAILED, WRONG_SETTINGS
from benchmarks.tables.solving import main
from tests.benchmarks.records.records_of import policy, record

CURVES = {
    # recipe -> of each seed, the returns after 100, 200, 300 and 400 steps
    "random": [[20, 480, 500, 500], [20, 30, 475, 490]],
    "sandwich": [[20, 474.9, 476, 100], [20, 30, 40, 50]],
}
RULES = {"random": "largest", "sandwich": "sandwich"}  # what a recipe is called decides nothing


def with_curve(recipe: str, seed: int, **changes: Any) -> Record:
    returns = CURVES[recipe][seed]
    moments = [(100.0 * n, float(value)) for n, value in enumerate(returns, start=1)]
    widths = {0.25: moments, 1.0: moments} if recipe == "sandwich" else {1.0: moments}
    episodes = {0.25: [1.0], 1.0: [1.0]}
    training = {"rule": RULES[recipe]}
    return policy(
        recipe, seed, episodes, widths, **{"steps": 400, "training": training, "ablation": "stability"} | changes
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for recipe in CURVES:
        for seed in (0, 1):
            write_record(with_curve(recipe, seed), tmp_path / "records")
    return tmp_path


def test_a_seed_counts_the_first_point_that_reaches_the_goal_or_all_steps(folder: Path) -> None:
    assert main([f"results={folder}"]) == DONE  # 475, of gymnasium
    lines = (folder / "solved.md").read_text().splitlines()
    assert lines[0].startswith("**Environment steps until the mean return is 475 on CartPole-v1; mean over seeds, of")
    assert lines[2:] == [
        "| width | seeds | 0.25 | 1 |",
        "| --- | ---: | ---: | ---: |",
        "| random | 2 |  | 250 (1.00 x) |",
        "| sandwich | 2 | 350 [1 never] | 350 (1.40 x) [1 never] |",
    ]


def test_the_multiple_is_of_a_policy_that_has_a_curve(folder: Path) -> None:
    """The first ordinary one may have none at the full width, as where it is trained within budgets."""
    write_record(policy("individual", 0, {1.0: [500.0]}, steps=400, ablation="stability"), folder / "records")
    assert main([f"results={folder}"]) == DONE
    rows = (folder / "solved.md").read_text().splitlines()[4:]
    assert rows[0] == "| random | 2 |  | 250 (1.00 x) |"


def test_the_multiple_is_of_the_same_seeds(folder: Path) -> None:
    next((folder / "records").glob("sandwich-0-*")).unlink()
    assert main([f"results={folder}"]) == DONE
    rows = (folder / "solved.md").read_text().splitlines()[4:]
    assert rows == ["| random | 2 |  | 250 (1.00 x) |", "| sandwich | 1 | 400 [1 never] | 400 (1.33 x) [1 never] |"]


def test_with_five_seeds_the_multiple_has_an_interval(folder: Path) -> None:
    for seed in range(2, 6):
        write_record(with_curve("random", seed % 2).model_copy(update={"seed": seed}), folder / "records")
        write_record(with_curve("sandwich", seed % 2).model_copy(update={"seed": seed}), folder / "records")
    assert main([f"results={folder}"]) == DONE
    rows = (folder / "solved.md").read_text().splitlines()[4:]
    assert rows[0] == "| random | 6 |  | 250 (1.00 x) |"
    assert rows[1] == "| sandwich | 6 | 350 [3 never] | 350 (1.40 [1.35, 1.46] x) [3 never] |"  # 2300/1700, 1900/1300


def test_without_a_common_seed_there_is_no_multiple(folder: Path) -> None:
    for name in ("sandwich-0-*", "random-1-*"):
        next((folder / "records").glob(name)).unlink()
    assert main([f"results={folder}"]) == DONE
    assert "| sandwich | 1 | 400 [1 never] | 400 [1 never] |" in (folder / "solved.md").read_text()


def test_the_goal_may_be_given(folder: Path) -> None:
    assert main([f"results={folder}", "goal=30"]) == DONE
    assert "| sandwich | 2 | 200 | 200 (1.00 x) |" in (folder / "solved.md").read_text()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Pendulum-v1", "gymnasium does not say which return solves Pendulum-v1; say it, for example goal=-200"),
        ("Unknown-v0", "unknown environment 'Unknown-v0'"),
    ],
)
def test_an_environment_without_a_goal_needs_one(
    name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(with_curve("sandwich", 0, dataset=name), tmp_path / "records")
    assert main([f"results={tmp_path}"]) == FAILED
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "solved.md").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["results=nowhere"], "results=nowhere has no records; name the folder of an ablation"),
        (["goal=much"], "goal=much must be a return that solves, for example goal=475"),
        (["goal=nan"], "goal=nan must be a return that solves, for example goal=475"),
        (["gaol=475"], "unknown key 'gaol'"),
    ],
)
def test_wrong_settings_are_refused(
    folder: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(arguments if arguments[0].startswith("results") else [f"results={folder}", *arguments]) == WRONG_SETTINGS
    )
    assert reason in capsys.readouterr().err


def test_damaged_records_and_other_tasks_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next((folder / "records").glob("sandwich-0-*")).write_text("{")
    assert main([f"results={folder}"]) == FAILED
    assert "damaged record, left out: " in capsys.readouterr().err
    assert (folder / "solved.md").exists()
    for path in (folder / "records").iterdir():
        path.write_text("{")
    assert main([f"results={folder}"]) == FAILED
    assert "has no readable record" in capsys.readouterr().err
    write_record(record("sandwich", 0, {1.0: 30.0}), folder / "photographs/records")
    assert main([f"results={folder / 'photographs'}", "goal=30"]) == FAILED
    assert "is of task=sr; what is solved are environments of rl" in capsys.readouterr().err
