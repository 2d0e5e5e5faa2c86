"""What tests of several commands share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.papers.published import read_published


@pytest.fixture
def one_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Papers of which one has a table: all of them take long to estimate."""
    papers = read_published()
    tables = {"bicubic": papers.tables["bicubic"]}
    few = replace(papers, sources={"bicubic": "bicubic"}, tables=tables, ablations=papers.ablations[3:4])
    monkeypatch.setattr("benchmarks.tables.__main__.read_published", lambda: few)
