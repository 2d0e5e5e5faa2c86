"""Write one page that shows all results: `python -m benchmarks.report [results=results] [to=results/report.html]`.

The page is a single file that opens without a network. It is made from the records below `results`, and from the
pictures that runs have left beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.analysis.collecting import Collected, collect
from benchmarks.records.folder import record_folders
from benchmarks.report.page import Report
from benchmarks.running.command import DONE, FAILED, command, complain, key_values
from tasks.atomic import write_atomically

KEYS = ("results", "to")
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class ReportSettings:
    """What to read, and the file to write."""

    results: Path
    to: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit code, as `benchmarks.running.command` has them."""
    return command(arguments, __doc__, read_arguments, _write, interrupted="nothing was written")


def read_arguments(arguments: Sequence[str]) -> ReportSettings:
    """The settings that `key=value` arguments say.

    Raises:
        ValueError: in one line: an unknown key, with the nearest right one, or a path that cannot be.
    """
    given = key_values(arguments, KEYS, example="results=results")
    results = Path(given.get("results", "results")).expanduser()
    to = Path(given["to"]).expanduser() if "to" in given else results / "report.html"
    _check_results(results)
    _check_target(to)
    return ReportSettings(results, to)


def _check_results(results: Path) -> None:
    if not results.exists():
        raise ValueError(
            f"results={results} does not exist; name the folder that runs have written to, or make one with "
            "python -m benchmarks.run task=sr ablation=sandwich"
        )
    if not results.is_dir():
        raise ValueError(f"results={results} is a file; name the folder that holds <task>/<ablation>/<scale>/")


def _check_target(to: Path) -> None:
    if to.is_dir():
        raise ValueError(f"to={to} is a folder; name a file in it, for example to={to / 'report.html'}")
    if to.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"to={to} does not end in .html; name the page to write, for example to={to}.html")
    for parent in to.parents:
        if parent.exists():
            if not parent.is_dir():
                raise ValueError(f"to={to}: {parent} is a file, no folder can be made there")
            return


def _write(settings: ReportSettings) -> int:
    report = Report(settings.results)
    for collected in _read(settings.results):
        report.add(collected)
    page = report.html(settings.to)
    write_atomically(settings.to, page)
    tables = sum(len(folder.tables) for folder in report.folders)
    print(f"{settings.to}: tables {tables:,}, records {report.origins.records:,}; {len(page) / MEGABYTE:.1f} MB")
    complain(f"damaged, left out: {path.parent}: {reason}" for path, reason in report.wrong.items())
    return FAILED if report.wrong else DONE


def _read(results: Path) -> Iterator[Collected]:
    """The folders, one after another, behind a bar that counts their records."""
    console = Console(stderr=True)
    columns = TextColumn("reading records"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    total = sum(1 for place in record_folders(results) for _ in (results / place / "records").glob("*.json"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield from collect(results, lambda _: bar.advance(task))


if __name__ == "__main__":
    sys.exit(main())
