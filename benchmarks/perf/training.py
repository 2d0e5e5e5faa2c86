"""A sandwich step with four widths: its time and its peak memory, against ordinary steps of dense networks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import FORMATS, build, slimmable, suited
from benchmarks.perf.timing import CPU, Spread, in_turn, ratio, take_turns, typical
from slimlib.serving.profiling import peak_bytes
from slimlib.training.rule import Rule
from slimlib.training.step import in_lower_precision

WIDTHS = (0.25, 0.5, 0.75, 1.0)
SWITCHES = slim.Switches(*WIDTHS)  # a sandwich with n=4 draws just these in every step
PLAIN_LOOP_LIMITS = {"MobileNet v1": 0.70, "MobileNet v2": 0.70}
FULL_STEP_LIMIT = 2.2
MATRIX = 1024  # rows and columns
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
KERNELS = re.compile(r"^aten::(mkldnn_convolution|.*batch_norm.*|.*_backward|clamp_min_?|add|div|mm|addmm)$")
Step = Callable[[], object]
Loss = Callable[[Tensor], Tensor]


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


def throughput(name: str, *, size: int, batch: int, rounds: int, device: torch.device = CPU) -> Iterator[Measurement]:
    """A sandwich step as a training pays for it, in float32 and bfloat16: over one step of the full network alone.

    Also over the summed steps of its four dense networks; images a second; its multiply-adds a second over those of a
    product of matrices, which is about what the processor can do; and how much of either is outside of torch's kernels:
    what is ours is the difference. Multiply-adds of a step: three times those of a forward.
    """
    macs = 3 * batch * sum(slim.cost(build(name, width), _batch(size, 1)).macs for width in WIDTHS)
    for precision, dtype in PRECISIONS.items():
        x = _batch(size, batch).to(device, memory_format=torch.channels_last)
        steps = {"sandwich": _slimmable_step(name, x, dtype)}
        steps |= {f"{width:g}": _dense_step(name, x, width, dtype) for width in WIDTHS}
        matrix = torch.randn(MATRIX, MATRIX, dtype=dtype, device=device)
        steps["product"] = partial(torch.mm, matrix, matrix)
        times = take_turns(steps, rounds=rounds, device=device)
        times["all"] = [sum(turn) for turn in zip(*(times[f"{width:g}"] for width in WIDTHS), strict=True)]
        setting = f"n=4, batch {batch}, {precision}"
        for limit, side, words in ((FULL_STEP_LIMIT, "1", ", over a step of the full network"), (1.0, "all", "")):
            value, seconds = ratio(times, "sandwich", side), typical(times[side])
            yield Measurement("sandwich step", name, setting + words, value, limit=limit, seconds=seconds)
        rate = Spread.of([batch / seconds for seconds in times["sandwich"]])
        yield Measurement("images trained", name, setting, rate, unit="images/s")
        pairs = zip(times["product"], times["sandwich"], strict=True)
        used = Spread.of([100 * macs / MATRIX**3 * product / sandwich for product, sandwich in pairs])
        yield Measurement("rate of arithmetic", name, f"{setting}, over a product of matrices", used, unit="%")
        if device.type == "cpu":
            dense = in_turn([steps[f"{width:g}"] for width in WIDTHS])
            for whose, step in (("sandwich", steps["sandwich"]), ("its dense networks", dense)):
                outside = Spread.of([100 * _outside_of_kernels(step) for _ in range(rounds)])
                yield Measurement("step outside of kernels", name, f"{setting}, {whose}", outside, unit="%")


def _outside_of_kernels(step: Step) -> float:
    """The part of a step, by the clock of the profiler, that is not in the kernels that a dense network runs, too."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as traced:
        began = time.perf_counter()
        step()
        seconds = time.perf_counter() - began
    inside = [event.self_cpu_time_total for event in traced.key_averages() if KERNELS.search(event.key)]
    return float(1 - sum(inside) / 1e6 / seconds)


def sandwich_memory(name: str, *, size: int, batch: int, device: torch.device = CPU) -> Iterator[Measurement]:
    """Peak memory of a sandwich step over that of a step of the full-width dense network, by format and precision."""
    parameters = sum(p.numel() * p.element_size() for p in build(name).parameters())
    kept = 2 * parameters  # the parameters and their momentum are there before the step
    for shown, memory in FORMATS.items():
        x = _batch(size, batch).to(device, memory_format=memory)
        for precision, dtype in PRECISIONS.items():
            peaks = []
            for step in (_slimmable_step(name, x, dtype), _dense_step(name, x, 1.0, dtype)):
                step()  # the optimizer's momentum, and what else is made once
                peaks.append(kept + peak_bytes(step, device))
            value, setting = Spread.of([peaks[0] / peaks[1]]), f"n=4, batch {batch}, {shown}, {precision}"
            yield Measurement("sandwich peak memory", name, setting, value, limit=1.05)


def _slimmable_step(name: str, x: Tensor, autocast: torch.dtype | None = None) -> Step:
    return step_of(slim.Sandwich(SWITCHES, samples=4), slimmable(name, x, widths=SWITCHES), x, _loss, autocast)


def step_of(rule: Rule, net: nn.Module, x: Tensor, loss: Loss, autocast: torch.dtype | None = None) -> Step:
    """A training step of a network by a rule, on the same batch in each call."""
    optimizer = _optimizer(net)

    def step() -> None:
        optimizer.zero_grad()
        rule.backward(net, x, loss, autocast=autocast)
        optimizer.step()

    return step


def _dense_step(name: str, x: Tensor, width: float, autocast: torch.dtype | None = None) -> Step:
    torch.manual_seed(0)
    net = suited(build(name, width), x)
    optimizer = _optimizer(net)

    def step() -> None:
        optimizer.zero_grad()
        _loss(net(x) if autocast is None else in_lower_precision(net, (x,), autocast)).backward()
        optimizer.step()

    return step


def _batch(size: int, batch: int) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def _loss(output: Tensor) -> Tensor:
    return output.square().mean()


def _optimizer(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
