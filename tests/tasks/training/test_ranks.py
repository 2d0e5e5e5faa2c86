"""Two processes train one network: what they tell each other, and that the result is that of one process."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing import start_processes

from tasks.points import PointResult
from tasks.training.checkpoint import Checkpoint
from tasks.training.ranks import ALONE, Ranks, joined, ranks_of
from tasks.training.recipe import Recipe
from tasks.training.run import Interrupted, TrainingFailed, TrainingRun, Watch
from tasks.training.supervised import train_recipe
from tests.tasks.training.toy import ToyTask

STEPS = 6
INDIVIDUAL = Recipe("individual", kind="individual")
SANDWICH = Recipe("sandwich", range=(0.5, 1.0), rule="sandwich", samples=3, distill="mse", calibrate=2)
SWITCHES = Recipe("switches", switches=(0.5, 0.75, 1.0), rule="every", norm="switchable")
GROUP = SANDWICH.replace(norm="group")
INCREMENTAL = Recipe("incremental", switches=(0.5, 0.75, 1.0), rule="incremental", norm="switchable")
STAGES, HEADS = INCREMENTAL.replace(norm="group"), GROUP.replace(heads=3)


class PlainTask(ToyTask):
    """Nothing in it depends on how a batch is shared out: no BatchNorm, no dropout."""

    def build(self, width: float = 1.0, *, norm: str = "batch") -> nn.Module:
        return nn.Sequential(*(m for m in super().build(width, norm="group") if not isinstance(m, nn.Dropout)))


class HalfPoisoned(PlainTask):
    """From step 3 on the first item of a batch, which is the first rank's, has an infinite loss."""

    def drawn(self, step: int, seed: int) -> tuple[Tensor, Tensor]:
        x, target = super().drawn(step, seed)
        target[0] *= torch.inf if step >= 2 else 1
        return x, target


class Killed(Exception):
    pass


def train(recipe: Recipe, task: ToyTask | None = None, ranks: Ranks = ALONE, **given: Any) -> list[PointResult]:
    return train_recipe(task or ToyTask(), recipe, TrainingRun(STEPS, 0, ranks=ranks, **given))


def killed(recipe: Recipe, path: Path, *, at: int, task: ToyTask | None = None, ranks: Ranks = ALONE) -> None:
    """Train until the process is killed after a step, and leave the checkpoint of the step before."""

    def count(done: int, _loss: float) -> None:
        if done == at:
            raise Killed

    with pytest.raises(Killed):
        checkpoint = Checkpoint(path, "run", every=0.0)
        train(recipe, task, ranks, checkpoint=checkpoint, watch=Watch(step=count))


def resumed(recipe: Recipe, path: Path, task: ToyTask | None = None, ranks: Ranks = ALONE) -> Any:
    """The results, and the first step that was trained."""
    steps: list[int] = []
    watch = Watch(step=lambda done, _: steps.append(done))
    return train(recipe, task, ranks, checkpoint=Checkpoint(path, "run", every=1e9), watch=watch), steps[0]


def trained(recipe: Recipe, ranks: Ranks) -> Any:
    """The results, and all weights and statistics at the end."""
    states: list[dict[str, Tensor]] = []
    watch = Watch(trained=lambda _, net: states.append({k: v.clone() for k, v in net.state_dict().items()}))
    return train(recipe, ranks=ranks, watch=watch), states


def resume_among(ranks: Ranks, folder: Path) -> Any:
    killed(SANDWICH, folder / "both.pt", at=4, ranks=ranks)
    torch.manual_seed(99 + ranks.index)  # another process has other random states
    return resumed(SANDWICH, folder / "both.pt", ranks=ranks)


def stop_one(ranks: Ranks, folder: Path) -> Any:
    """The steps until both stop, since the second was asked to."""
    steps: list[int] = []
    watch = Watch(step=lambda done, _: steps.append(done), stop=lambda: ranks.index == 1 and len(steps) == 3)
    with pytest.raises(Interrupted):
        train(SANDWICH, ranks=ranks, checkpoint=Checkpoint(folder / "stopped.pt", "run", every=1e9), watch=watch)
    return steps, resumed(SANDWICH, folder / "stopped.pt", ranks=ranks)


class Unpicklable(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def fail(error: Exception) -> Any:
    raise error


def error_of(ranks: Ranks, work: Callable[[], Any]) -> tuple[str, str, bool]:
    """Its class and text, and whether the ranks can go on after it."""
    try:
        work()
    except Exception as error:
        return type(error).__name__, str(error), ranks.can_go_on(error)
    return "", "", True


CASES: dict[str, Callable[[Ranks, Path], Any]] = {
    "first": lambda ranks, _: ranks.first(lambda: f"by {ranks.index}"),
    "together": lambda ranks, _: ranks.together(lambda: f"by {ranks.index}"),
    "gathered": lambda ranks, _: ranks.gathered(lambda: f"by {ranks.index}"),
    "any": lambda ranks, _: ranks.any(False, ranks.index == 0, ranks.index == 1),
    "mean": lambda ranks, _: ranks.mean([1.0, 3.0 * ranks.index]),
    "error of the first": lambda ranks, _: error_of(ranks, lambda: ranks.first(lambda: fail(OSError(28, "no space")))),
    "error of one": lambda ranks, _: error_of(
        ranks, lambda: ranks.together(lambda: fail(ValueError("of one")) if ranks.index else None)
    ),
    "unpicklable error": lambda ranks, _: error_of(
        ranks, lambda: ranks.together(lambda: fail(Unpicklable("a", "b")) if ranks.index else None)
    ),
    "error alone": lambda ranks, _: error_of(ranks, lambda: fail(ValueError("alone"))),
    "group": lambda ranks, _: train(GROUP, PlainTask(), ranks),
    "group, individual": lambda ranks, _: train(INDIVIDUAL, PlainTask(), ranks),
    "group, in stages": lambda ranks, _: train(STAGES, PlainTask(), ranks),
    "group, heads": lambda ranks, _: train(HEADS, PlainTask(), ranks),
    "incremental": lambda ranks, _: trained(INCREMENTAL, ranks),
    "sandwich": lambda ranks, _: trained(SANDWICH, ranks),
    "switches": lambda ranks, _: trained(SWITCHES, ranks),
    "individual": lambda ranks, _: trained(INDIVIDUAL, ranks),
    "half precision": lambda ranks, _: train(SANDWICH, ranks=ranks, precision="float16"),
    "resumed": resume_among,
    "resumed of one": lambda ranks, folder: resumed(GROUP, folder / "of-one.pt", PlainTask(), ranks),
    "killed": lambda ranks, folder: killed(GROUP, folder / "of-two.pt", at=4, task=PlainTask(), ranks=ranks),
    "stopped": stop_one,
    "not finite": lambda ranks, _: error_of(ranks, lambda: train(GROUP, HalfPoisoned(), ranks)),
}


def on_rank(index: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(index), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with joined() as ranks:
        found = {name: case(ranks, folder) for name, case in CASES.items()}
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    (folder / f"{index}.pickle").write_bytes(pickle.dumps(found | {"threads": threads}))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port


Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder: Path) -> Iterator[Found]:
    """What each of the two ranks had in each of the cases."""
    killed(GROUP, folder / "of-one.pt", at=4, task=PlainTask())
    start_processes(on_rank, (folder, free_port()), nprocs=2, start_method="fork")  # importing takes long
    return [pickle.loads((folder / f"{index}.pickle").read_bytes()) for index in range(2)]


def numbers(results: list[PointResult]) -> list[float]:
    return [v for r in results for scores in r.metrics.values() for v in (r.width, r.macs, r.params, *scores.values())]


def test_without_torchrun_a_process_is_alone() -> None:
    assert ranks_of({}) == ranks_of({"WORLD_SIZE": "4"}) == ALONE
    assert ranks_of({"RANK": "1", "WORLD_SIZE": "4"}) == Ranks(1, 4)
    assert ALONE.first(lambda: 1) == ALONE.together(lambda: 1) == 1 and ALONE.gathered(lambda: 1) == [1]
    assert ALONE.any(True, False) == (True, False) and ALONE.mean([2.0]) == [2.0]
    assert ALONE.can_go_on(ValueError()) and ALONE.leads


def test_ranks_tell_each_other(found: Found) -> None:
    assert [f["first"] for f in found] == ["by 0", "by 0"]
    assert [f["together"] for f in found] == ["by 0", "by 1"]
    assert [f["gathered"] for f in found] == [["by 0", "by 1"]] * 2
    assert [f["any"] for f in found] == [(False, True, True)] * 2
    assert [f["mean"] for f in found] == [[1.0, 1.5]] * 2


@pytest.mark.parametrize(
    ("case", "kind", "text", "shared"),
    [
        ("error of the first", "OSError", "no space", True),
        ("error of one", "ValueError", "of one", True),
        ("error alone", "ValueError", "alone", False),
    ],
)
def test_every_rank_raises_what_one_raises_in_work_done_together(
    case: str, kind: str, text: str, shared: bool, found: Found
) -> None:
    for rank in found:
        assert rank[case][0] == kind and text in rank[case][1] and rank[case][2] is shared


def test_an_error_that_cannot_be_sent_is_told(found: Found) -> None:
    assert [f["unpicklable error"] for f in found] == [
        ("RuntimeError", "Unpicklable: ab", True),
        ("Unpicklable", "ab", True),
    ]


@pytest.mark.parametrize(
    ("case", "recipe"),
    [("group", GROUP), ("group, individual", INDIVIDUAL), ("group, in stages", STAGES), ("group, heads", HEADS)],
)
def test_two_processes_equal_one(case: str, recipe: Recipe, found: Found) -> None:
    assert found[0][case] == found[1][case]
    assert numbers(found[0][case]) == pytest.approx(numbers(train(recipe, PlainTask())), rel=1e-3)


@pytest.mark.parametrize("case", ["sandwich", "switches", "individual", "incremental"])
def test_all_ranks_end_with_the_same_weights_statistics_and_scores(case: str, found: Found) -> None:
    (results, states), (other_results, other_states) = (f[case] for f in found)
    assert results == other_results
    torch.testing.assert_close(states, other_states, rtol=0, atol=0)


def test_lower_precision_trains_alike_on_all_ranks(found: Found) -> None:
    assert found[0]["half precision"] == found[1]["half precision"]


def test_resume_equals_uninterrupted(found: Found) -> None:
    for rank in found:
        results, first = rank["resumed"]
        assert first == 4 and results == rank["sandwich"][0]


def test_a_checkpoint_of_one_process_resumes_in_two(found: Found) -> None:
    results, first = found[0]["resumed of one"]
    assert first == 4
    assert numbers(results) == pytest.approx(numbers(train(GROUP, PlainTask())), rel=1e-3)


def test_a_checkpoint_of_two_processes_resumes_in_one(found: Found, folder: Path) -> None:
    results, first = resumed(GROUP, folder / "of-two.pt", PlainTask())
    assert first == 4
    assert numbers(results) == pytest.approx(numbers(train(GROUP, PlainTask())), rel=1e-3)


def test_when_one_is_asked_to_stop_all_stop_after_the_same_step(found: Found) -> None:
    for rank in found:
        steps, (results, first) = rank["stopped"]
        assert steps == [1, 2, 3] and first == 4
        assert results == rank["sandwich"][0]


def test_a_loss_that_is_not_finite_on_one_rank_is_a_failure_on_all(found: Found) -> None:
    for rank in found:
        kind, text, shared = rank["not finite"]
        assert kind == TrainingFailed.__name__ and "inf at step 3, width 1;" in text and shared


def test_nothing_of_the_group_outlives_it(found: Found) -> None:
    for rank in found:
        assert not [name for name in rank["threads"] if "gloo" in name], "the process may abort at its exit"
