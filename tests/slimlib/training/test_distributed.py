"""Two gloo processes draw the same widths, give the gradients of one on the joined batch, and calibrate as one."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed.nn  # before there is a group: imported later, its default arguments keep the group alive
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import barrier, destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

import slimlib as slim
from slimlib.training.rule import Rule
from slimlib.training.step import Step

STEPS = 3
KINDS = ("universal", "switchable", "averaged")


def switchable() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    return slim.convert(net, torch.zeros(2, 6), widths=slim.Switches(0.25, 0.5, 1.0), norm="switchable").eval()


def universal() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    return slim.convert(net, torch.zeros(2, 6), widths=slim.WidthRange(0.25, 1.0))


def steps(net: nn.Module, rule: Rule, rows: slice) -> tuple[list[list[Any]], list[Tensor]]:
    """The widths of each step and the gradients of the last, of ordinary SGD on some rows of a fixed batch."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    widths: list[list[Any]] = []
    for _ in range(STEPS):
        x, target = torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)
        optimizer.zero_grad()
        losses = rule.backward(net, x[rows], lambda out, target=target[rows]: F.cross_entropy(out, target))
        widths.append(list(losses))
        optimizer.step()
    return widths, [torch.zeros(1) if p.grad is None else p.grad.clone() for p in net.parameters()]


def make(kind: str) -> tuple[nn.Module, Rule]:
    if kind == "switchable":  # in eval mode: BatchNorm in training sees each rank's rows alone
        return switchable(), slim.EveryWidth(slim.Switches(0.25, 0.5, 1.0), distill=slim.soft_cross_entropy)
    if kind == "averaged":
        teacher = slim.AveragedTeacher(decay=0.5)
        lesson = slim.Lesson(0.5, slim.soft_cross_entropy, "balanced", teacher)
        lessons = slim.Lessons(lesson, smallest=slim.Lesson(0.5, slim.l1, teacher=slim.Ensemble(of=teacher)))
        return universal(), LooksFirst(slim.WidthRange(0.25, 1.0), 4, lesson=lessons, seed=3)
    return universal(), slim.Sandwich(slim.WidthRange(0.25, 1.0), 4, slim.soft_cross_entropy, seed=3)


class LooksFirst(slim.Sandwich):
    """Of two draws it takes the one that loses less, which the ranks must agree on."""

    def draw(self, step: Step | None = None) -> list[Any]:
        assert step is not None
        return min([super().draw(), super().draw()], key=lambda drawn: sum(map(step.loss, drawn)))


class Normed(nn.Module):
    """Two BatchNorms, of which the second need not run."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32))
        self.last = nn.Linear(32, 3)
        self.both = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.second(x) if self.both else x)


def normed() -> nn.Module:
    torch.manual_seed(0)
    return slim.convert(Normed(), torch.zeros(2, 6), widths=slim.WidthRange(0.25, 1.0))


def inputs(*sizes: int) -> list[Tensor]:
    """Batches of these sizes, of very different means."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(size, 6, generator=generator) * (i + 1) + 3 * i for i, size in enumerate(sizes)]


WIDTHS = [0.25, 0.5, 1.0]
BATCHES = inputs(8, 3, 6, 5)
SHARED_OUT = {"equal": (BATCHES[::2], BATCHES[1::2]), "unequal": ([BATCHES[0], BATCHES[3]], [BATCHES[1]])}


def statistics(net: nn.Module, batches: list[Tensor], **given: Any) -> dict[str, Tensor] | str:
    """The calibrated statistics, or why there are none."""
    inner = net.module if isinstance(net, DistributedDataParallel) else net
    try:
        slim.calibrate(net, batches, **{"widths": WIDTHS} | given)
    except ValueError as error:
        return str(error)
    return {name: value.clone() for name, value in inner.state_dict().items() if "running" in name}


def skipping(skip: bool) -> nn.Module:
    net = normed()
    net.both = not skip
    return net


def refusal(wrap: Callable[[nn.Module], nn.Module]) -> str:
    """Why a network that is wrapped so cannot be trained."""
    try:
        steps(wrap(universal()), make("universal")[1], slice(0, 4))
    except ValueError as error:
        return str(error)
    return "it can"


CASES: dict[str, Callable[[int], dict[str, Tensor] | str]] = {
    "exact": lambda rank: statistics(normed(), SHARED_OUT["equal"][rank]),
    "exact, unequal": lambda rank: statistics(normed(), SHARED_OUT["unequal"][rank]),
    "exact, none on one": lambda rank: statistics(normed(), [] if rank else BATCHES),
    "exact, wrapped": lambda rank: statistics(DistributedDataParallel(normed()), SHARED_OUT["unequal"][rank]),
    "layer on one": lambda rank: statistics(skipping(rank == 1), SHARED_OUT["equal"][rank]),
    "moving": lambda rank: statistics(normed(), SHARED_OUT["equal"][rank], average="moving"),
    "moving, unequal": lambda rank: statistics(normed(), SHARED_OUT["unequal"][rank], average="moving"),
    "none": lambda _: statistics(normed(), []),
    "static graph": lambda _: refusal(partial(DistributedDataParallel, static_graph=True)),
    "fully_shard": lambda _: refusal(partial(fully_shard, mesh=init_device_mesh("cpu", (2,)))),
    "FSDP": lambda _: refusal(partial(FullyShardedDataParallel, use_orig_params=True, device_id=torch.device("cpu"))),
    "other widths": lambda rank: statistics(normed(), BATCHES, widths=[0.25] if rank else [0.5]),
}


def train_on_rank(index: int, kind: str) -> Any:
    inner, rule = make(kind)
    torch.manual_seed(index)  # nothing that a rank draws on its own may reach the widths
    net = DistributedDataParallel(inner, find_unused_parameters=kind == "switchable")
    return steps(net, rule, slice(4 * index, 4 * index + 4))


def on_rank(index: int, folder: str) -> None:
    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=2)
    found: dict[str, Any] = {kind: train_on_rank(index, kind) for kind in KINDS}
    torch.save(found | {name: case(index) for name, case in CASES.items()}, f"{folder}/{index}.pt")
    gc.collect()
    barrier()
    destroy_process_group()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two ranks found in each of the cases."""
    folder = tmp_path_factory.mktemp("ranks")
    start_processes(on_rank, (str(folder),), nprocs=2, start_method="fork")  # importing takes long
    return [torch.load(folder / f"{index}.pt") for index in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one_on_the_joined_batch(kind: str, of_ranks: list[dict[str, Any]]) -> None:
    (widths_0, gradients_0), (widths_1, gradients_1) = (found[kind] for found in of_ranks)
    widths, gradients = steps(*make(kind), slice(None))
    assert widths_0 == widths_1 == widths
    torch.testing.assert_close(gradients_0, gradients_1, rtol=0, atol=0)
    torch.testing.assert_close(gradients_0, gradients)


def test_all_ranks_get_the_same_statistics(of_ranks: list[dict[str, Any]]) -> None:
    one, other = of_ranks
    for name in CASES:
        if isinstance(one[name], str):
            assert one[name] == other[name]
        else:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("case", "read"),
    [
        ("exact", [0, 1, 2, 3]),
        ("exact, unequal", [0, 1, 3]),
        ("exact, none on one", [0, 1, 2, 3]),
        ("exact, wrapped", [0, 1, 3]),
    ],
)
def test_exact_statistics_are_those_of_one_process_reading_all_batches(
    case: str, read: list[int], of_ranks: list[dict[str, Any]]
) -> None:
    alone = statistics(normed(), [BATCHES[i] for i in read])
    torch.testing.assert_close(of_ranks[0][case], alone, rtol=1e-6, atol=1e-6)


def test_a_layer_that_runs_on_one_rank_has_the_statistics_of_that_rank(of_ranks: list[dict[str, Any]]) -> None:
    found, everywhere = of_ranks[0]["layer on one"], statistics(normed(), BATCHES)
    there = statistics(normed(), SHARED_OUT["equal"][0])
    for name, value in found.items():
        expected = (there if name.startswith("second") else everywhere)[name]
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


def test_the_moving_average_takes_the_batches_of_all_ranks_as_one(of_ranks: list[dict[str, Any]]) -> None:
    (a, b), (c, d) = SHARED_OUT["equal"]
    alone = statistics(normed(), [torch.cat([a, c]), torch.cat([b, d])], average="moving")
    first = [name for name in alone if name.startswith("first")]  # what comes later depends on this normalisation
    for name in first:
        torch.testing.assert_close(of_ranks[0]["moving"][name], alone[name], rtol=1e-6, atol=1e-6)
    assert len(first) == 2 * len(WIDTHS)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("moving, unequal", "batch number 2 on rank 0 but not on every rank"),
        ("none", "got no batch"),
        ("other widths", "the same widths on every rank"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_on_every_rank(
    case: str, message: str, of_ranks: list[dict[str, Any]]
) -> None:
    assert message in of_ranks[0][case]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("static graph", "a rule runs one for each width; leave static_graph out"),
        ("fully_shard", "'0.weight' is spread over several processes .*; use DistributedDataParallel"),
        ("FSDP", "take DistributedDataParallel in place of FSDP"),
    ],
)
def test_wrappers_that_cannot_be_trained_are_refused_by_name(
    case: str, message: str, of_ranks: list[dict[str, Any]]
) -> None:
    assert all(re.search(message, rank[case]) for rank in of_ranks)
