"""What `python -m benchmarks.perf` measures, part by part."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.perf.exporting import exporting
from benchmarks.perf.inference import folded, inference, switching
from benchmarks.perf.measurement import Machine, Measurement
from benchmarks.perf.networks import TRAINING_SIZES
from benchmarks.perf.policies import MODELS, policies
from benchmarks.perf.records import write
from benchmarks.perf.report import write_report
from benchmarks.perf.routing import MIXTURES, routing
from benchmarks.perf.searching import latency_error, plan_evaluation
from benchmarks.perf.spectrum import spectrum
from benchmarks.perf.training import sandwich_memory, sandwich_step

CLASSIFIERS = ("MobileNet v1", "MobileNet v2", "ResNet-50")
WIDTHS = (0.25, 0.5, 0.75, 1.0)
INFERENCE_SIZES = {"MobileNet v1": 224, "MobileNet v2": 224, "ResNet-50": 224, "WDSR-A": 96}
SPECTRUM_BATCHES = ((32, 2), (128, 1))  # images in a batch, batches
ON_CPU = ("export", "search", "latency", "routing", "policies")
PARTS = ("inference", "folded", "training", "memory", "switching", "spectrum", "detection", *ON_CPU)
DETECTORS = ("Faster R-CNN",)
NETWORKS = (*TRAINING_SIZES, *MODELS, *DETECTORS)
GPU_BATCHES = 8
"""Times the images of a CPU's training step that a step has on a GPU, which would have too little to do."""


def measure(part: str, network: str, *, rounds: int, device: torch.device) -> Iterator[Measurement]:
    """The measurements of one part on one network."""
    if (part == "policies") != (network in MODELS) or (part == "detection") != (network in DETECTORS):
        return
    if part == "policies":
        yield from policies(network, rounds=rounds)
        return
    if part == "detection":
        from benchmarks.perf.detecting import detecting  # its packages are an extra

        yield from detecting(network, widths=WIDTHS, side=320, rounds=max(rounds // 3, 1), device=device)
        return
    size, batch = TRAINING_SIZES[network]
    batch *= GPU_BATCHES if device.type == "cuda" else 1
    if part == "inference" and network in CLASSIFIERS:
        yield from inference(network, widths=WIDTHS, size=INFERENCE_SIZES[network], rounds=rounds, device=device)
    elif part == "folded":
        yield from folded(network, widths=WIDTHS, size=INFERENCE_SIZES[network], rounds=rounds, device=device)
    elif part == "training":
        yield from sandwich_step(network, size=size, batch=batch, rounds=max(rounds // 3, 1), device=device)
    elif part == "memory":
        yield sandwich_memory(network, size=size, batch=batch, device=device)
    elif part == "switching" and network in CLASSIFIERS[:2]:
        yield from switching(network, size=64, rounds=rounds, device=device)
    elif part == "spectrum" and network in CLASSIFIERS:
        rounds = max(rounds // 6, 1)
        for batch, batches in SPECTRUM_BATCHES:
            yield from spectrum(network, widths=30, size=64, batch=batch, batches=batches, rounds=rounds, device=device)
    elif part == "export" and network in CLASSIFIERS[:2]:
        yield from exporting(network, widths=WIDTHS, size=INFERENCE_SIZES[network], rounds=rounds)
    elif part == "search" and network in CLASSIFIERS:
        yield from plan_evaluation(network, size=size, batch=batch, rounds=max(rounds // 6, 1))
    elif part == "routing" and network in MIXTURES:
        yield from routing(network, rounds=rounds)
    elif part == "latency" and network in CLASSIFIERS:
        yield latency_error(network, size=INFERENCE_SIZES[network], rounds=max(rounds // 6, 1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.perf",
        description="Measure, and write records, table and figure to results/perf. The table has a part for each class "
        "of machines that has records there.",
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--network", action="append", choices=NETWORKS, help="all by default")
    parser.add_argument("--rounds", type=int, default=30, help="turns that each side gets (training: a third)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "auto"), default="cpu", help=f"cuda: all parts but {', '.join(ON_CPU)}"
    )
    parser.add_argument("--results", type=Path, default=Path("results/perf"))
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"unknown part {sorted(unknown)[0]!r}; choose from {', '.join(PARTS)}")
    if chosen.rounds < 1:
        parser.error(f"--rounds {chosen.rounds} must be at least 1")
    if chosen.device == "auto":
        chosen.device = "cuda" if torch.cuda.is_available() else "cpu"
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch finds no GPU")
    parts = [part for part in chosen.parts or PARTS if chosen.device == "cpu" or part not in ON_CPU]
    if not parts:
        parser.error(f"{' and '.join(chosen.parts)}: measured with --device cpu only")
    torch.set_num_threads(1)
    console = Console()
    device, machine = torch.device(chosen.device), Machine.this(chosen.device)
    for part in parts:
        for network in chosen.network or NETWORKS:
            with console.status(f"{part}: {network}"):
                found = list(measure(part, network, rounds=chosen.rounds, device=device))
            write(chosen.results, found, machine, rounds=chosen.rounds)
    console.print(write_report(chosen.results), markup=False, highlight=False, soft_wrap=True)
    return 0
