"""A sandwich step with four widths: its time and its peak memory, against ordinary steps of dense networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import FORMATS, build, slimmable, suited
from benchmarks.perf.timing import CPU, Spread, in_turn, ratio, take_turns, typical
from slimlib.serving.profiling import peak_bytes

WIDTHS = (0.25, 0.5, 0.75, 1.0)
SWITCHES = slim.Switches(*WIDTHS)  # a sandwich with n=4 draws just these in every step
PLAIN_LOOP_LIMITS = {"MobileNet v1": 0.70, "MobileNet v2": 0.70}
Step = Callable[[], object]


def sandwich_step(
    name: str, *, size: int, batch: int, rounds: int, device: torch.device = CPU
) -> Iterator[Measurement]:
    """Time of a sandwich step over the summed time of a step of each of its four dense networks.

    In both memory formats, each against dense networks in the same one; and, in channels_last, against dense
    networks in the other, as a plain loop has them, beside what the format gives these.
    """
    steps: dict[str, Step] = {}
    for shown, memory in FORMATS.items():
        x = _batch(size, batch).to(device, memory_format=memory)
        steps[f"slimmable {shown}"] = _slimmable_step(name, x)
        steps[f"dense {shown}"] = in_turn([_dense_step(name, x, width) for width in WIDTHS])
    times = take_turns(steps, rounds=rounds, device=device)
    for shown in FORMATS:
        value, seconds = ratio(times, f"slimmable {shown}", f"dense {shown}"), typical(times[f"dense {shown}"])
        yield Measurement("sandwich step", name, f"n=4, batch {batch}, {shown}", value, limit=1.00, seconds=seconds)
    value, seconds = ratio(times, "slimmable NHWC", "dense NCHW"), typical(times["dense NCHW"])
    setting, limit = f"n=4, batch {batch}, NHWC over a plain NCHW loop", PLAIN_LOOP_LIMITS.get(name)
    yield Measurement("sandwich step", name, setting, value, limit=limit, seconds=seconds)
    setting = f"n=4, batch {batch}, the dense networks themselves, NHWC over NCHW"
    yield Measurement("sandwich step", name, setting, ratio(times, "dense NHWC", "dense NCHW"), seconds=seconds)


def sandwich_memory(name: str, *, size: int, batch: int, device: torch.device = CPU) -> Measurement:
    """Peak memory of a sandwich step over that of a step of the full-width dense network."""
    x = _batch(size, batch).to(device)
    sandwich, dense = _slimmable_step(name, x), _dense_step(name, x, 1.0)
    for step in (sandwich, dense):
        step()  # the optimizer's momentum, and what else is made once
    parameters = sum(p.numel() * p.element_size() for p in build(name).parameters())
    kept = 2 * parameters  # the parameters and their momentum are there before the step
    value = (kept + peak_bytes(sandwich, device)) / (kept + peak_bytes(dense, device))
    return Measurement("sandwich peak memory", name, f"n=4, batch {batch}", Spread.of([value]), limit=1.10)


def _slimmable_step(name: str, x: Tensor) -> Step:
    net = slimmable(name, x, widths=SWITCHES)
    rule = slim.Sandwich(SWITCHES, samples=4)
    optimizer = _optimizer(net)

    def step() -> None:
        optimizer.zero_grad()
        rule.backward(net, x, _loss)
        optimizer.step()

    return step


def _dense_step(name: str, x: Tensor, width: float) -> Step:
    torch.manual_seed(0)
    net = suited(build(name, width), x)
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
