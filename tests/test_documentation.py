"""Guides and reference: what they show is what works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.settings.run import read_recipes, read_settings
from tests import api_page

ROOT = Path(__file__).parent.parent
GENERATED = ("ablations.md",)  # its commands are composed where it is made
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
GUIDES = [page for page in PAGES if page.name != "README.md" and "```python" in page.read_text()]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_the_blocks_of_a_guide_run_one_after_another(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: dict[str, Any] = {"__name__": "guide"}
    for number, code in enumerate(blocks(page, "python"), start=1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), seen)


def runs() -> list[tuple[str, str]]:
    found = []
    for page in [page for page in PAGES if page.name not in GENERATED]:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                found += [(page.name, part.strip()) for part in line.split("&&") if "-m benchmarks.run " in part]
    return found


@pytest.mark.parametrize(("page", "line"), runs())
def test_every_run_that_is_shown_can_be_composed(page: str, line: str, tmp_path: Path) -> None:
    shown = line.partition("-m benchmarks.run ")[2].partition(" #")[0]
    arguments = shlex.split(shown)
    if "ablation=two-widths" in arguments:
        pytest.skip("the guide's own ablation, which is checked below")
    assert read_settings([*arguments, f"results={tmp_path}"]).recipes


def test_the_ablations_that_are_shown_are_ablations() -> None:
    shown = [yaml.safe_load(block) for page in PAGES for block in blocks(page, "yaml")]
    shown = [one for one in shown if "recipes" in one]
    assert shown
    for one in shown:
        one["slimmable"]["range"] = [0.25, 1.0]  # what the scale fills in
        for task in ("sr", "classification", "rl"):
            assert read_recipes(one, task)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page: Path) -> None:
    for path in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / path).exists(), path


def test_the_reference_is_what_the_docstrings_say() -> None:
    assert api_page.PAGE.read_text() == api_page.page(), f"run `{api_page.COMMAND}`"


def test_every_public_thing_says_what_for() -> None:
    names = re.findall(r"### <a id=\"[^\"]+\"></a>`(\w+)`\n\n```text\n[^`]*```\n\n(.*)", api_page.page())
    assert len(names) > 40
    assert [name for name, first in names if not first.strip()] == []
