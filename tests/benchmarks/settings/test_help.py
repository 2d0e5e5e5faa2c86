"""Help and documentation tell every key, from the models alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.settings.choices import CODE, GROUPS, choices, model_of, question
from benchmarks.settings.groups import Run
from benchmarks.settings.help import COMMAND, markdown, page, usage, usage_of_recipes
from tasks.settings import Settings, keys_of
from tasks.training.recipe import Recipe

ROOT = Path(__file__).parents[3]
MODELS = [Run, *(model_of(group, name) for group in CODE for name in choices(group))]


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == page(), f"run `{COMMAND}`"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_is_told_with_help(model: type[Settings]) -> None:
    for key in keys_of(model):
        assert key.about and key.allowed != "anything", key.name
        assert f"  {key.name}=" in usage("")
        assert f"| `{key.name}` |" in page()


def test_every_key_of_a_recipe_is_told() -> None:
    for key in (*Recipe.model_fields, "samples", "temperature", "distill_values", "weight", "teacher"):
        assert f"  {key}=" in usage_of_recipes() and f"| `{key}` |" in page()


def test_every_choice_is_told_with_its_question() -> None:
    told = [question(group, name) for group in GROUPS for name in choices(group)]
    assert all(told)
    assert [one for one in told if one not in usage("") or markdown(one) not in page()] == []


def test_help_does_without_torch() -> None:
    code = "import sys; from benchmarks.settings.help import usage; usage(''); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
