"""One line of the performance table, and the class of machines that it holds for."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.perf.timing import Spread
from benchmarks.records.environment import host_class


@dataclass(frozen=True)
class Measurement:
    """How slimlib compares with dense networks in one respect.

    Attributes:
        what: is measured, for example "inference in place".
        network, setting: on which network; at which width, memory format, batch.
        value: ratio to the dense networks (unit "x"), or microseconds (unit "us").
        limit: what the project promises; None: shown without a promise.
        seconds: of the dense side, for ratios.
    """

    what: str
    network: str
    setting: str
    value: Spread
    unit: str = "x"
    limit: float | None = None
    seconds: float | None = None

    @property
    def subject(self) -> tuple[str, str, str]:
        """What the limit is for, on whichever machine."""
        return self.what, self.network, self.setting

    @property
    def verdict(self) -> str:
        """Whether the median keeps the limit, in the two digits that are shown."""
        if self.limit is None:
            return ""
        return "kept" if round(self.value.median, 2) <= self.limit else "over"


@dataclass(frozen=True, order=True)
class Machine:
    """A class of machines. Timings of two classes are never put together.

    Attributes:
        processor: the model of the CPU and its cores; for a GPU, its model and then the CPU beside it.
        threads: that torch uses.
        torch: its version and build.
        device: "cpu" or "cuda".
    """

    processor: str
    threads: int
    torch: str
    device: str

    @staticmethod
    def this(device: str = "cpu") -> Machine:
        """The one that computes now."""
        processor = host_class("cpu") if device == "cpu" else f"{host_class(device)} beside {host_class('cpu')}"
        return Machine(processor, torch.get_num_threads(), torch.__version__, device)

    def __str__(self) -> str:
        threads = f"{self.threads} thread" + "s" * (self.threads > 1)
        return f"{self.processor}; {threads}, torch {self.torch}, device {self.device}"
