"""Guides and reference: what they show is what works. Dead links are found by `tox -e docs`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import runpy
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from benchmarks.settings.run import read_recipes, read_settings
from tests.families.packages import torchvision

ROOT = Path(__file__).parent.parent
GENERATED = ("ablations.md",)  # its commands are composed where it is made
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
REFERENCE = (ROOT / "docs/reference.md").read_text()
NEEDED = {name: name.removesuffix(".md") for name in ("transformers.md", "timm.md", "accelerate.md")}  # a package
NEEDED |= {"detection.md": "torchvision"}
GUIDES = [page for page in PAGES if page.name != "README.md" and "```python" in page.read_text()]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_the_blocks_of_a_guide_run_one_after_another(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.name in NEEDED:
        if importlib.util.find_spec(NEEDED[page.name]) is None:
            pytest.skip(f"needs {NEEDED[page.name]}: pip install -e '.[families]'")
        if importlib.util.find_spec("torchvision"):
            torchvision()  # before the package imports it
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


def public_names() -> list[tuple[ModuleType, str]]:
    modules = map(importlib.import_module, ("slimlib", "slimlib.export", "slimlib.models", "slimlib.rl"))
    return [(module, name) for module in modules for name in module.__all__]


@pytest.mark.parametrize(("module", "name"), public_names(), ids=lambda each: getattr(each, "__name__", each))
def test_the_reference_has_every_public_name_and_its_docstring(module: ModuleType, name: str) -> None:
    thing = getattr(module, name)
    shown = re.findall(r"^::: (\S+)$", REFERENCE, re.MULTILINE)
    assert {f"{module.__name__}.{name}", f"{module.__name__}.{name}.{name}", f"slimlib.{name}.{name}"} & set(shown)
    assert not callable(thing) or inspect.getdoc(thing)
    for documented in (thing, *(vars(thing).values() if inspect.isclass(thing) else ())):
        for section in re.findall(
            r"^(?:Args|Attributes|Raises|Warns):\n((?: {4}.+\n?)+)", doc(documented), re.MULTILINE
        ):
            entries = re.findall(r"^ {4}(\S.*)", section, re.MULTILINE)
            assert all(re.match(r"[\w.*, ]+: ", entry) for entry in entries), entries


def doc(thing: Any) -> str:
    return inspect.cleandoc(getattr(thing, "__doc__", None) or "")


def test_the_picture_of_shared_weights_is_what_its_script_draws() -> None:
    draw = runpy.run_path(str(ROOT / "docs/draw_sharing.py"))["drawing"]
    assert (ROOT / "docs/sharing.svg").read_text() == draw()
