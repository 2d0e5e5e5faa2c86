"""Two gloo processes draw the same widths and give the gradients of one process on the joined batch."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import barrier, destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

import slimlib as slim
from slimlib.rules import Rule

STEPS = 3


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
    return universal(), slim.Sandwich(slim.WidthRange(0.25, 1.0), 4, slim.soft_cross_entropy, seed=3)


def rank(index: int, folder: str, kind: str) -> None:
    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=2)
    inner, rule = make(kind)
    torch.manual_seed(index)  # nothing that a rank draws on its own may reach the widths
    net = DistributedDataParallel(inner, find_unused_parameters=kind == "switchable")
    torch.save(steps(net, rule, slice(4 * index, 4 * index + 4)), f"{folder}/{index}.pt")
    del net, inner
    gc.collect()
    barrier()
    destroy_process_group()


@pytest.mark.parametrize("kind", ["universal", "switchable"])
def test_two_processes_equal_one_on_the_joined_batch(kind: str, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(rank, (str(tmp_path), kind), nprocs=2)
    (widths_0, gradients_0), (widths_1, gradients_1) = (torch.load(tmp_path / f"{i}.pt") for i in range(2))
    widths, gradients = steps(*make(kind), slice(None))
    assert widths_0 == widths_1 == widths
    torch.testing.assert_close(gradients_0, gradients_1, rtol=0, atol=0)
    torch.testing.assert_close(gradients_0, gradients)
