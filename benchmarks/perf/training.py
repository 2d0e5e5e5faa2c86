"""A sandwich step with four widths: its time and its peak memory, against ordinary steps of dense networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import build, channel_rule
from benchmarks.perf.timing import Spread, ratio, take_turns

WIDTHS = slim.Switches(0.25, 0.5, 0.75, 1.0)  # a sandwich with n=4 draws just these in every step
Step = Callable[[], object]


def sandwich_step(name: str, *, size: int, batch: int, rounds: int) -> Measurement:
    """Time of a sandwich step over the summed time of a step of each of its four dense networks."""
    x = _batch(size, batch)
    slimmable = _slimmable_step(name, x)
    dense = [_dense_step(name, x, width) for width in WIDTHS.widths]

    def all_dense() -> None:
        for step in dense:
            step()

    times = take_turns({"slimmable": slimmable, "dense": all_dense}, rounds=rounds)
    seconds = sorted(times["dense"])[rounds // 2]
    value = ratio(times, "slimmable", "dense")
    return Measurement("sandwich step", name, f"n=4, batch {batch}", value, limit=1.00, seconds=seconds)


def sandwich_memory(name: str, *, size: int, batch: int) -> Measurement:
    """Peak memory of a sandwich step over that of a step of the full-width dense network."""
    x = _batch(size, batch)
    slimmable, dense = _slimmable_step(name, x), _dense_step(name, x, 1.0)
    for step in (slimmable, dense):
        step()  # the optimizer's momentum, and what else is made once
    parameters = sum(p.numel() * p.element_size() for p in build(name).parameters())
    kept = 2 * parameters  # the parameters and their momentum are there before the step
    value = (kept + peak(slimmable)) / (kept + peak(dense))
    return Measurement("sandwich peak memory", name, f"n=4, batch {batch}", Spread.of([value]), limit=1.10)


def peak(step: Step) -> int:
    """Most bytes of tensors that a step held at once, beyond those that were there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held = most = 0
    results = profile.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def _slimmable_step(name: str, x: Tensor) -> Step:
    torch.manual_seed(0)
    full = build(name)
    net = slim.convert(full, x[:1], widths=WIDTHS, **channel_rule(full))
    rule = slim.Sandwich(WIDTHS, samples=4)
    optimizer = _optimizer(net)

    def step() -> None:
        optimizer.zero_grad()
        rule.backward(net, x, _loss)
        optimizer.step()

    return step


def _dense_step(name: str, x: Tensor, width: float) -> Step:
    torch.manual_seed(0)
    net = build(name, width)
    optimizer = _optimizer(net)

    def step() -> None:
        optimizer.zero_grad()
        _loss(net(x)).backward()
        optimizer.step()

    return step


def _batch(size: int, batch: int) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def _loss(output: Tensor) -> Tensor:
    return output.square().mean()


def _optimizer(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
