"""Recipes are checked at the door."""

from __future__ import annotations

from typing import Any

import pytest

from slimlib import Sandwich
from tasks.training.recipe import Recipe
from tests.tasks.training.toy import ToyTask

GOOD: dict[str, Any] = {"name": "r", "range": [0.25, 1.0], "rule": "sandwich", "samples": 4}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rule": "sandwitch"}, "recipe 'r': unknown width rule 'sandwitch'; did you mean 'sandwich'?"),
        ({"sample": 4}, "unknown key of a recipe 'sample'; did you mean 'samples'?"),
        ({"distill": "L1"}, "unknown distillation 'L1'"),
        ({"kind": "slimable"}, "did you mean 'slimmable'?"),
        ({"norm": "switchable"}, "norm: switchable needs switches"),
        ({"rule": "random", "distill": "l1"}, "rule 'random' cannot distil"),
        ({"temperature": 4.0}, "temperature belongs to distill: kl_divergence"),
        ({"distill": "kl_divergence", "temperature": 0.0}, "temperature 0.0"),
        ({"samples": 1}, "at least 2"),
        ({"samples": None}, "samples must be a whole number"),
        ({"samples": 2.5}, "samples must be a whole number"),
        ({"range": [0.5]}, r"range is [smallest, largest]"),
        ({"range": [1.0, 0.25]}, "needs 0 < smallest <= largest <= 1"),
        ({"range": 0.25}, "range is a list of widths"),
        ({"range": ["wide", 1.0]}, "'wide' is not a width"),
        ({"range": None}, "needs its widths"),
        ({"switches": [0.5, 1.0]}, "needs its widths: either"),
        ({"range": None, "switches": [0.5, 0.5], "samples": 2}, "only once"),
        ({"rule": "every", "samples": None}, "rule: every needs switches"),
        ({"rule": "every", "range": None, "switches": [0.5, 1.0]}, "'samples' has no meaning for rule: every"),
        ({"kind": "individual"}, "'range' has no meaning for individual networks"),
        ({"calibrate": -1}, "calibrate must be a whole number"),
        ({"average": "median"}, "unknown average 'median'"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as error:
        Recipe.from_mapping(GOOD | change)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a value for 'name'"):
        Recipe.from_mapping({"kind": "individual"})


def test_widths_of_the_rule_derive_from_the_seed() -> None:
    recipe = Recipe.from_mapping(GOOD)
    assert isinstance(recipe.make_rule(0), Sandwich)
    assert recipe.make_rule(3).draw() == recipe.make_rule(3).draw() != recipe.make_rule(4).draw()


def test_only_allowed_widths_are_evaluated() -> None:
    assert Recipe.from_mapping(GOOD | {"range": [0.6, 1.0]}).evaluated(ToyTask()) == (0.75, 1.0)
    with pytest.raises(ValueError, match="no evaluated width"):
        Recipe.from_mapping(GOOD | {"range": [0.1, 0.2]}).evaluated(ToyTask())
