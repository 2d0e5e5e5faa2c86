"""What `python -m benchmarks.perf` measures, part by part; each row is kept as soon as it is there."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.perf.alternatives import alternatives, present
from benchmarks.perf.exporting import exporting
from benchmarks.perf.footprint import footprint
from benchmarks.perf.inference import folded, inference, switching
from benchmarks.perf.lessons import lessons
from benchmarks.perf.measurement import Machine, Measurement
from benchmarks.perf.networks import CLASSIFIERS, NETWORKS, SMALL, TRAINING_SIZES
from benchmarks.perf.policies import MODELS, policies
from benchmarks.perf.records import write
from benchmarks.perf.report import shown, write_report
from benchmarks.perf.routing import MIXTURES, routing
from benchmarks.perf.searching import latency_error, plan_evaluation
from benchmarks.perf.spectrum import spectrum
from benchmarks.perf.starting import CONVERT_LIMITS, converting, freezing, starting
from benchmarks.perf.training import sandwich_memory, sandwich_step, throughput
from benchmarks.running.command import DONE, FAILED, ended, read_options

LARGE = tuple(CLASSIFIERS)
MOBILE = LARGE[:2]
WIDTHS = (0.25, 0.5, 0.75, 1.0)
INFERENCE_SIZES = {"MobileNet v1": 224, "MobileNet v2": 224, "ResNet-50": 224, "WDSR-A": 96}
SPECTRUM_BATCHES = ((32, 2), (128, 1))  # images in a batch, batches
GPU_BATCHES = 8
"""Times the images of a CPU's training step that a step has on a GPU, which would have too little to do."""

Measure = Callable[[str, int, torch.device], Iterator[Measurement]]
"""(network, rounds, device) -> rows."""


@dataclass(frozen=True)
class Part:
    """What can be asked for by name: the networks that it has rows of, and how they are measured."""

    networks: Sequence[str]
    measure: Measure
    on_gpu: bool = True


def _training(name: str, rounds: int, device: torch.device) -> Iterator[Measurement]:
    size, batch = _of_a_step(name, device)
    yield from (throughput if name == SMALL else sandwich_step)(
        name, size=size, batch=batch, rounds=max(rounds // 3, 1), device=device
    )


def _memory(name: str, rounds: int, device: torch.device) -> Iterator[Measurement]:
    size, batch = _of_a_step(name, device)
    yield from sandwich_memory(name, size=size, batch=batch, device=device)


def _of_a_step(name: str, device: torch.device) -> tuple[int, int]:
    size, batch = TRAINING_SIZES[name]
    return size, batch * (GPU_BATCHES if device.type == "cuda" else 1)


def _spectrum(name: str, rounds: int, device: torch.device) -> Iterator[Measurement]:
    for batch, batches in SPECTRUM_BATCHES:
        yield from spectrum(
            name, widths=30, size=64, batch=batch, batches=batches, rounds=max(rounds // 6, 1), device=device
        )


def _search(name: str, rounds: int, device: torch.device) -> Iterator[Measurement]:
    size, batch = TRAINING_SIZES[name]
    yield from plan_evaluation(name, size=size, batch=batch, rounds=max(rounds // 6, 1))


def _latency(name: str, rounds: int, device: torch.device) -> Iterator[Measurement]:
    yield latency_error(name, size=INFERENCE_SIZES[name], rounds=max(rounds // 6, 1))


def _detection(name: str, rounds: int, device: torch.device) -> Iterator[Measurement]:
    from benchmarks.perf.detecting import detecting  # its packages are an extra

    yield from detecting(name, widths=WIDTHS, side=320, rounds=max(rounds // 3, 1), device=device)


def _alternatives(name: str, rounds: int, device: torch.device) -> Iterator[Measurement]:
    ways, skipped = present()
    for line in skipped:
        print(line, file=sys.stderr)
    yield from alternatives(name, widths=WIDTHS, size=INFERENCE_SIZES[name], rounds=rounds, ways=ways)


PARTS = {
    # What is there after seconds comes first.
    "start": Part(("slimlib",), lambda name, rounds, _: starting(rounds=min(rounds, 5)), on_gpu=False),
    "converting": Part(
        tuple(CONVERT_LIMITS), lambda name, rounds, _: converting(name, size=224, rounds=min(rounds, 5)), on_gpu=False
    ),
    "switching": Part(MOBILE, lambda name, rounds, device: switching(name, size=64, rounds=rounds, device=device)),
    "freezing": Part(("ResNet-50",), lambda name, rounds, device: freezing(name, WIDTHS, size=224, device=device)),
    "inference": Part(
        LARGE,
        lambda name, rounds, device: inference(
            name, widths=WIDTHS, size=INFERENCE_SIZES[name], rounds=rounds, device=device
        ),
    ),
    "folded": Part(
        NETWORKS,
        lambda name, rounds, device: folded(
            name, widths=WIDTHS, size=INFERENCE_SIZES[name], rounds=rounds, device=device
        ),
    ),
    "training": Part((SMALL, *NETWORKS), _training),
    "memory": Part(NETWORKS, _memory),
    "lessons": Part(
        (SMALL,),
        lambda name, rounds, device: lessons(
            name, batch=_of_a_step(name, device)[1], rounds=max(rounds // 3, 1), device=device
        ),
    ),
    "footprint": Part(
        LARGE, lambda name, _, device: footprint(name, widths=WIDTHS, size=INFERENCE_SIZES[name], device=device)
    ),
    "spectrum": Part(LARGE, _spectrum),
    "detection": Part(("Faster R-CNN",), _detection),
    "export": Part(
        MOBILE,
        lambda name, rounds, _: exporting(name, widths=WIDTHS, size=INFERENCE_SIZES[name], rounds=rounds),
        on_gpu=False,
    ),
    "alternatives": Part(MOBILE, _alternatives, on_gpu=False),
    "search": Part(LARGE, _search, on_gpu=False),
    "latency": Part(LARGE, _latency, on_gpu=False),
    "routing": Part(tuple(MIXTURES), lambda name, rounds, _: routing(name, rounds=rounds), on_gpu=False),
    "policies": Part(tuple(MODELS), lambda name, rounds, _: policies(name, rounds=rounds), on_gpu=False),
}
ON_CPU = tuple(name for name, part in PARTS.items() if not part.on_gpu)
ALL_NETWORKS = tuple(dict.fromkeys(network for part in PARTS.values() for network in part.networks))


class OutOfTime(BaseException):
    """The time that the command was given is over. No `except Exception` of a library may hold it up."""


@contextmanager
def time_limit(minutes: float | None) -> Iterator[None]:
    """Within the block, `OutOfTime` is raised when the minutes are over."""
    if minutes is None:
        yield
        return

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes, 10)  # again, should it have been raised where nothing can pass
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code, as `benchmarks.running.command` has them."""
    chosen = _parse(arguments)
    return ended(lambda: _measure(chosen), "what was measured is kept")


def _measure(chosen: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    console = Console()
    device, machine = torch.device(chosen.device), Machine.this(chosen.device)
    asked = [(part, network) for part in chosen.parts for network in PARTS[part].networks if network in chosen.network]
    done = 0
    try:
        with time_limit(chosen.minutes):
            for part, network in asked:
                found: list[Measurement] = []
                with console.status(f"{part}: {network}"):
                    for row in PARTS[part].measure(network, chosen.rounds, device):
                        found.append(row)
                        console.print("  ".join(shown(row)), markup=False, highlight=False, soft_wrap=True)
                        write(chosen.results, found, machine, rounds=chosen.rounds, whole=False)
                write(chosen.results, found, machine, rounds=chosen.rounds)
                done += 1
    except OutOfTime:
        part, network = asked[done]
        message = f"{chosen.minutes:g} minutes are over in {part}: {network}; what was measured before is kept."
        console.print(message, highlight=False, soft_wrap=True)
        if not any(chosen.results.glob("records/*/*.json")):
            return FAILED
    console.print(write_report(chosen.results), markup=False, highlight=False, soft_wrap=True)
    return DONE


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.perf",
        description="Measure, and write records, table and figure to results/perf. The table has a part for each class "
        "of machines that has records there.",
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--network", action="append", choices=ALL_NETWORKS, help="all by default")
    parser.add_argument("--rounds", type=int, default=30, help="turns that each side gets (training: a third)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "auto"), default="cpu", help=f"cuda: all parts but {', '.join(ON_CPU)}"
    )
    parser.add_argument("--minutes", type=float, help="stop after so many, with what there is by then")
    parser.add_argument("--results", type=Path, default=Path("results/perf"))
    chosen = read_options(parser, arguments)
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"unknown part {sorted(unknown)[0]!r}; choose from {', '.join(PARTS)}")
    if chosen.rounds < 1:
        parser.error(f"--rounds {chosen.rounds} must be at least 1")
    if chosen.minutes is not None and not 0 < chosen.minutes < float("inf"):
        parser.error(f"--minutes {chosen.minutes:g} must be more than 0")
    if chosen.device == "auto":
        chosen.device = "cuda" if torch.cuda.is_available() else "cpu"
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch finds no GPU")
    parts = [part for part in chosen.parts or PARTS if chosen.device == "cpu" or part not in ON_CPU]
    if not parts:
        parser.error(f"{' and '.join(chosen.parts)}: measured with --device cpu only")
    chosen.parts, chosen.network = parts, chosen.network or ALL_NETWORKS
    of_parts = dict.fromkeys(network for part in parts for network in PARTS[part].networks)
    if not set(of_parts) & set(chosen.network):
        parser.error(f"{' and '.join(parts)}: measured with {', '.join(of_parts)}, not with {chosen.network[0]}")
    return chosen
