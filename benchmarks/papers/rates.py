"""How fast this repository has trained: multiply-adds and environment steps a second, from its records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import torch

import slimlib as slim
from benchmarks.analysis.collecting import Collected
from benchmarks.papers.counting import FORWARD_AND_BACKWARD
from benchmarks.perf.networks import CLASSIFIERS, TRAINING_SIZES, build
from benchmarks.perf.records import read
from benchmarks.perf.training import WIDTHS
from benchmarks.records.record import Record

ASSUMED_GPU_RATE = 1e13
"""Multiply-adds a second of a GPU while it trains, where no record tells: a sixteenth of the 156e12 that the data sheet
of an A100 has for bfloat16 (312 TFLOPS). Depthwise convolutions and narrow layers use no more of it than that."""

STEP = re.compile(r"n=\d+, batch (\d+), NHWC")
TIMED = {**CLASSIFIERS, "WDSR-A": "wdsr-a"}  # network of benchmarks.perf -> model of a task


@dataclass(frozen=True)
class Rate:
    """So many of something a second.

    Attributes:
        origin: what it was measured on, for captions.
    """

    value: float
    origin: str


class Rates:
    """What was measured, and what is assumed where nothing was.

    Args:
        collected: the records of runs.
        perf: the folder with the records of `python -m benchmarks.perf`.
        gpu: multiply-adds a second of a GPU, where no record is from one.
    """

    def __init__(self, collected: Iterable[Collected], perf: Path, *, gpu: float = ASSUMED_GPU_RATE) -> None:
        runs = [record for one in collected for table in one.tables for record in table.records]
        self._runs = list({(r.task, r.hash, r.seed): r for r in runs}.values())  # ablations share records
        self._steps = dict(timed_steps(perf)) if perf.is_dir() else {}
        on_gpu = [_macs_a_second(r) for r in self._runs if _individual(r) and gpus(r.host)]
        self.gpu_is_measured = bool(on_gpu)
        self.gpu = median(on_gpu) if on_gpu else gpu

    def core(self, task: str, model: str) -> Rate | None:
        """Multiply-adds a second of a CPU core: that trains this network, or else those of the task; None: unknown."""
        if model in self._steps:
            return self._steps[model].rate()
        trained = [r for r in self._runs if r.task == task and _individual(r) and not gpus(r.host)]
        if not trained:
            return None
        rate = median(_macs_a_second(r) / r.threads for r in trained)
        names = ", ".join(sorted({str(r.settings["model"]) for r in trained}))
        return Rate(rate, f"whole runs of {names}")

    def played(self, environment: str, algorithm: str) -> Rate | None:
        """Environment steps a second and core in training, evaluation included; None where none was recorded."""
        alike = [r for r in self._runs if r.settings.get("environment") == environment and r.seconds > 0]
        alike = [r for r in alike if r.settings.get("algorithm") == algorithm]
        if not alike:
            return None
        steps = [r.steps * (len(r.rows) if r.kind == "individual" else 1) / r.seconds / r.threads for r in alike]
        return Rate(median(steps), f"{len(alike)} runs of {algorithm} on {environment}")


def gpus(host: str) -> int:
    """How many GPUs a run had, by what its record says of the machine."""
    found = re.fullmatch(r"(?:(\d+) processes, )?(.*)", host)
    assert found is not None
    return 0 if re.search(r"\d+ cores$", found[2]) else int(found[1] or 1)


def _individual(record: Record) -> bool:
    """Whether all that its seconds went into is known exactly: a training for each width that it shows."""
    return record.kind == "individual" and "batch" in record.settings and record.seconds > 0


def _macs_a_second(record: Record) -> float:
    images = record.steps * record.settings["batch"]
    macs = FORWARD_AND_BACKWARD * images * sum(row.macs for row in record.rows)
    return float(macs / record.seconds / max(1, gpus(record.host)))


@dataclass(frozen=True)
class TimedStep:
    """A sandwich step of four widths, in seconds of one thread."""

    network: str
    batch: int
    seconds: float

    def rate(self) -> Rate:
        """Multiply-adds a second."""
        macs = FORWARD_AND_BACKWARD * self.batch * _macs_of_widths(self.network)
        return Rate(macs / self.seconds, f"timed steps of {self.network}")


def timed_steps(perf: Path) -> Iterator[tuple[str, TimedStep]]:
    """Model -> the step that `python -m benchmarks.perf` timed of it."""
    for record in read(perf):
        for measured in record.measurements if record.machine.device == "cpu" else ():
            found = STEP.fullmatch(measured.setting)
            if measured.what == "sandwich step" and found and measured.seconds and measured.network in TIMED:
                seconds = measured.seconds * measured.value.median  # a ratio to the seconds of dense networks
                yield TIMED[measured.network], TimedStep(measured.network, int(found[1]), seconds)


@cache
def _macs_of_widths(network: str) -> int:
    size, _ = TRAINING_SIZES[network]
    image = torch.zeros(1, 3, size, size)
    return sum(slim.cost(build(network, width), image).macs for width in WIDTHS)
