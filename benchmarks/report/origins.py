"""What ran where: records counted by machine, threads, versions and commit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.records.record import Record
from benchmarks.report.spectrum import Json

HEAD = ["task", "ablation", "scale", "machine", "threads", "versions", "commit", "records", "hours"]


@dataclass
class Origins:
    """Counts records by where they come from, and keeps none."""

    found: dict[tuple[str, ...], tuple[int, float]] = field(default_factory=dict)
    trained: dict[tuple[str, str, int], float] = field(default_factory=dict)

    def add(self, records: Iterable[Record]) -> None:
        """Count these records in."""
        for record in records:
            versions = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
            where = (record.host, str(record.threads), versions, record.commit or "unknown")
            key = (record.task, record.ablation, record.scale, *where)
            count, seconds = self.found.get(key, (0, 0.0))
            self.found[key] = count + 1, seconds + record.seconds
            self.trained[record.task, record.hash, record.seed] = record.seconds

    @property
    def records(self) -> int:
        """How many there are."""
        return sum(count for count, _ in self.found.values())

    @property
    def hours(self) -> float:
        """Of training and scoring, as the records say; one that several ablations share counts once."""
        return sum(self.trained.values()) / 3600

    def summary(self) -> str:
        """In a line: `15 records, 2.31 hours on <machine>, 1 thread`."""
        machines = {(host, threads) for _, _, _, host, threads, *_ in self.found}
        host, threads = next(iter(machines))
        place = f"{host}, {threads} thread{'s' if threads != '1' else ''}"
        where = place if len(machines) == 1 else f"{len(machines)} kinds of machines"
        records = f"{self.records:,} record{'s' if self.records != 1 else ''}"
        return f"{records}, {self.hours:,.2f} hours on {where}"

    def grid(self) -> Json:
        """A row for each, as the page's script reads it."""
        rows = [[*key, str(count), f"{seconds / 3600:.2f}"] for key, (count, seconds) in sorted(self.found.items())]
        return {"title": "Records by what made them", "head": HEAD, "pinned": [], "rows": rows}
