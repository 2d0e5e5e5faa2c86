"""Make tables and figures again from the records alone: `python -m benchmarks.tables`.

results=results             the folder that runs have written to; by itself: every ablation's tables and figures,
                            and every paper's
paper=us_nets               only the tables of one paper, ours beside them, also on the screen:
                            slimmable | us_nets | autoslim | ds_net | wdsr | bicubic | all
page=docs/ablations.md      only the page of the ablations
claims=docs/results.md      only the table of the papers' claims, between its two marks in this page
gpu_macs_per_second=1e13    for the hours of a GPU in the estimates, where no record is from one
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.analysis.collecting import Collected, collect
from benchmarks.analysis.grid import show_grid
from benchmarks.papers.figure import paper_figure
from benchmarks.papers.paper import Section, paper_csv, paper_md, paper_tex, sections
from benchmarks.papers.published import Published, read_published
from benchmarks.papers.rates import ASSUMED_GPU_RATE, Rates
from benchmarks.running.command import DONE, FAILED, IN_USE, command, complain, key_values, say
from benchmarks.tables.claims import around, claims_page
from benchmarks.tables.page import ablations_page
from benchmarks.tables.rebuilding import Rebuilt, damaged, rebuild
from tasks.atomic import write_atomically
from tasks.settings import unknown

KEYS = ("results", "paper", "page", "claims", "gpu_macs_per_second")


@dataclass(frozen=True)
class TableSettings:
    """What to make, and from which records.

    Attributes:
        published: the printed tables.
        paper: a source of the published tables, "all", or "" for every table there is.
        page: the page of the ablations; `claims`: that of the papers' claims; None: it is not asked for.
    """

    published: Published
    results: Path = Path("results")
    paper: str = ""
    page: Path | None = None
    claims: Path | None = None
    gpu_macs_per_second: float = ASSUMED_GPU_RATE


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what the command line says; returns the exit code, as `benchmarks.running.command` has them."""
    rest = "what was written is whole, the same command makes the rest"
    return command(arguments, __doc__, read_arguments, _make, interrupted=rest)


def read_arguments(arguments: Sequence[str]) -> TableSettings:
    """The settings that `key=value` arguments say.

    Raises:
        ValueError: in one line: an unknown key or paper, with the nearest right one, or an impossible value; or the
            published tables are wrong.
    """
    published = read_published()
    given = key_values(arguments, KEYS, example="paper=us_nets")
    if "paper" in given and given["paper"] not in (papers := [*published.sources, "all"]):
        raise unknown("paper", given["paper"], papers)
    if len(both := [f"{key}=" for key in ("paper", "page", "claims") if key in given]) > 1:
        raise ValueError(f"{' and '.join(both)} cannot be combined; give one of them")
    results = Path(given.get("results", "results")).expanduser()
    if not results.is_dir():
        what = "is a file" if results.exists() else "does not exist"
        raise ValueError(f"results={results} {what}; name the folder that python -m benchmarks.run has written to")
    page, claims = (
        _page(key, given.get(key), example)
        for key, example in (("page", "docs/ablations.md"), ("claims", "docs/results.md"))
    )
    rate = _rate(given.get("gpu_macs_per_second"))
    return TableSettings(published, results, given.get("paper", ""), page, claims, rate)


def _page(key: str, given: str | None, example: str) -> Path | None:
    if given is None:
        return None
    page = Path(given).expanduser()
    if page.is_dir() or page.suffix != ".md":
        raise ValueError(f"{key}={page} is not a Markdown file; for example {key}={example}")
    if key == "claims":
        around(page)
    return page


def _rate(given: str | None) -> float:
    try:
        rate = ASSUMED_GPU_RATE if given is None else float(given)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"gpu_macs_per_second={given} must be a number above 0, for example 1e13")
    return rate


def _make(settings: TableSettings) -> int:
    published, console = settings.published, Console()
    with console.status("reading records"):
        collected = list(collect(settings.results))
    rates = Rates(collected, settings.results / "perf", gpu=settings.gpu_macs_per_second)
    done = Rebuilt()
    if settings.page is not None:
        page = ablations_page(collected, rates, settings.page.parent, settings.results)
        write_atomically(settings.page, page)
        say(console, f"{settings.page}: {len(collected)} folders with records")
    elif settings.claims is not None:
        write_atomically(settings.claims, claims_page(settings.claims, collected, settings.results))
        say(console, f"{settings.claims}: the papers' claims")
    elif settings.paper:
        chosen = list(published.sources) if settings.paper == "all" else [settings.paper]
        for source in chosen:
            for section in _write_paper(source, settings, collected, rates):
                _show(section, console)
            say(console, f"Tables: {settings.results / 'published' / source}")
    else:
        done = rebuild(collected, console)
        with console.status("the papers' tables"):
            for source in published.sources:
                _write_paper(source, settings, collected, rates)
        papers = f"{len(published.sources)} papers' in {settings.results / 'published'}"
        say(console, f"{done.tables} tables in {len(collected)} folders of {settings.results}, {papers}")
    return _conclude(done, collected)


def _write_paper(source: str, settings: TableSettings, collected: Sequence[Collected], rates: Rates) -> list[Section]:
    published = settings.published
    folder = settings.results / "published" / source
    found = sections(published, source, collected)
    files: dict[str, str | bytes] = {
        "table.md": paper_md(published, source, found, collected, rates, folder),
        "table.tex": paper_tex(published, source, found),
        "table.csv": paper_csv(found),
        **{f"figure.{kind}": content for kind, content in paper_figure(found).items()},
    }
    for name, content in files.items():
        write_atomically(folder / name, content)
    return found


def _show(section: Section, console: Console) -> None:
    say(console, section.title)
    show_grid(section.grid(), console)
    for note in section.notes(section.beside):
        say(console, note)
    apart = section.grid_apart()
    if apart is not None:
        show_grid(apart, console)
        for note in section.notes(section.apart):
            say(console, note)


def _conclude(done: Rebuilt, collected: Sequence[Collected]) -> int:
    """Say what went wrong, and return the exit code."""
    wrong = damaged(collected)
    lines = [f"damaged record, left out: {path.parent}: {reason}" for path, reason in wrong]
    complain([*lines, *done.failed, *done.in_use])
    return FAILED if wrong or done.failed else IN_USE if done.in_use else DONE


if __name__ == "__main__":
    sys.exit(main())
