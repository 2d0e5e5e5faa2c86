"""What a run would cost: hours of CPU cores from measured rates, hours of GPUs from measured or assumed ones."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.analysis.ablation import short
from benchmarks.papers.counting import training_macs
from benchmarks.papers.rates import Rate, Rates
from benchmarks.settings.run import RunSettings

HOUR = 3600.0


@dataclass(frozen=True)
class Estimate:
    """An estimate of what all recipes and seeds of a run take.

    Attributes:
        work: multiply-adds, or environment steps, for tables.
        core_hours: None where nothing was measured; `measured_on`: what was.
        gpu_hours: None where a GPU would idle.
    """

    work: str
    core_hours: float | None
    measured_on: str
    gpu_hours: float | None

    def __str__(self) -> str:
        parts = [self.work]
        if self.core_hours is not None:
            parts.append(f"{two_digits(self.core_hours)} hours of a CPU core (by {self.measured_on})")
        if self.gpu_hours is not None:
            parts.append(f"{two_digits(self.gpu_hours)} hours of a GPU")
        return ", ".join(parts)


def estimate(settings: RunSettings, rates: Rates) -> Estimate:
    """The cost of a run; individual networks that another run has trained already need not be paid again."""
    if settings.task == "rl":
        return _of_policies(settings, rates)
    macs = training_macs(settings)
    core = rates.core(settings.task, settings.task_settings["model"])
    return Estimate(f"{scientific(macs)} multiply-adds", *_hours(macs, core), macs / rates.gpu / HOUR)


def _of_policies(settings: RunSettings, rates: Rates) -> Estimate:
    widths = len(settings.task_settings["widths"])
    networks = sum(widths if recipe.kind == "individual" else 1 for recipe in settings.recipes)
    steps = settings.steps * networks * len(settings.seeds)
    rate = rates.played(settings.task_settings["environment"], settings.task_settings["algorithm"])
    return Estimate(f"{short(steps)} environment steps", *_hours(steps, rate), None)


def _hours(work: float, rate: Rate | None) -> tuple[float | None, str]:
    return (None, "") if rate is None else (work / rate.value / HOUR, rate.origin)


def scientific(number: float) -> str:
    """4.04e+18 -> 4e18."""
    return f"{number:.2g}".replace("e+", "e")


def two_digits(number: float) -> str:
    """1234 -> 1,200."""
    return f"{float(f'{number:.2g}'):,.10g}"


def explained(rates: Rates) -> str:
    """How the hours were come by, for captions."""
    gpu = (
        f"the {scientific(rates.gpu)} multiply-adds a second of this repository's records from a GPU"
        if rates.gpu_is_measured
        else f"an assumed {scientific(rates.gpu)} multiply-adds a second (gpu_macs_per_second=; no record has a GPU)"
    )
    return (
        "The work is counted, not measured: steps x batch x multiply-adds of the networks that a step visits (random "
        "widths as they are expected) x 3 for forward and backward pass, over all recipes and seeds; calibration and "
        "scoring are left out. Core hours: at the rate measured here on one core of a CPU, in timed steps of the "
        f"network or, where none was timed, in whole runs of the task. GPU hours: at {gpu}; loading must keep up. "
        "Policies: environment steps, at the rate of this repository's runs; the environments run on the CPU. "
        "Runs share what they have in common, so that several cost less than their sum."
    )
