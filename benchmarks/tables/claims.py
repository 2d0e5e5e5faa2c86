"""The table of the papers' claims, in a page that says more about them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from benchmarks.analysis.collecting import Collected
from benchmarks.papers.claims import by_folder, checked, claims_table, read_claims

BEGIN = "<!-- made by python -m benchmarks.tables claims=docs/results.md; do not edit -->"
END = "<!-- end of what is made -->"


def claims_page(page: Path, collected: Iterable[Collected], results: Path) -> str:
    """The page with the table between its marks, in place of what is there.

    Raises:
        ValueError: it cannot be read, or lacks the marks.
    """
    before, after = around(page)
    rows = checked(read_claims(), by_folder(collected, results), results / "perf")
    table = claims_table(rows, Path(os.path.relpath(results, page.parent)).as_posix())
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def around(page: Path) -> tuple[str, str]:
    """What stands before the first mark and after the second.

    Raises:
        ValueError: the page cannot be read, or lacks the marks.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"claims={page} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"claims={page} needs two lines, between which the table goes: {BEGIN} and {END}")
    return before, after
