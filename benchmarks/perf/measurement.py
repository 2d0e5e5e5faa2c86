"""One line of the performance table."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.perf.timing import Spread


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
    def verdict(self) -> str:
        """Whether the median keeps the limit, in the two digits that are shown."""
        if self.limit is None:
            return ""
        return "kept" if round(self.value.median, 2) <= self.limit else "over"
