"""Recipes are checked at the door."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from slimlib import Sandwich, models
from slimlib.training.named import parameters_of
from slimlib.training.rules import RULES, rule_parameters
from tasks.training.recipe import DISTILLED, LESSON, Recipe
from tests.tasks.training.toy import ToyTask

OF_LOGITS = {"ensemble": {"mean": "probabilities"}}
STAGES = {"rule": "incremental", "samples": None, "range": None, "switches": [0.5, 1.0]}
GOOD: dict[str, Any] = {"name": "r", "range": [0.25, 1.0], "rule": "sandwich", "samples": 4}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rule": "sandwitch"}, "recipe 'r': unknown width rule 'sandwitch'; did you mean 'sandwich'?"),
        ({"sample": 4}, "unknown key of a recipe 'sample'; did you mean 'samples'?"),
        ({"distill": "L1"}, "unknown distillation 'L1'"),
        ({"kind": "slimable"}, "did you mean 'slimmable'?"),
        ({"norm": "switchable"}, "norm 'switchable' needs its switches"),
        ({"rule": "random", "distill": "l1"}, "RandomWidths cannot distil from the largest"),
        ({"temperature": 4.0}, "temperature belongs to distill: kl_divergence"),
        ({"distill": "kl_divergence", "temperature": 0.0}, "temperature 0.0"),
        ({"samples": 1}, "at least 2"),
        ({"samples": 2.5}, "samples=2.5 of rule 'sandwich' must be a whole number"),
        ({"range": [0.5]}, "range=[0.5] must be a list of 2"),
        ({"range": [1.0, 0.25]}, "needs 0 < smallest <= largest <= 1"),
        ({"range": 0.25}, "range=0.25 must be a list of 2"),
        ({"range": ["wide", 1.0]}, "range='wide' must be a list of 2"),
        ({"range": None}, "needs its widths"),
        ({"switches": [0.5, 1.0]}, "needs its widths: either"),
        ({"range": None, "switches": [0.5, 0.5], "samples": 2}, "switches=[0.5, 0.5]: each only once"),
        ({"rule": "every", "samples": None}, "EveryWidth trains a list of switches"),
        ({"rule": "every", "range": None, "switches": [0.5, 1.0]}, "'samples' has no meaning for rule: every"),
        ({"kind": "individual"}, "'range' has no meaning for individual networks"),
        ({"calibrate": -1}, "calibrate=-1 must be a whole number"),
        ({"average": "median"}, "unknown average 'median'"),
        ({"data": "half"}, "data='half' must be a number of at least 0, 'balanced'"),
        ({"weight": 0.5}, "weight and teacher belong to distillation"),
        ({"distill": "l1", "temperatur": 1.0}, "unknown key of a recipe 'temperatur'"),
        ({"distill": "l1", "temperature": 1.0}, "temperature belongs to distill: kl_divergence"),
        (
            {"distill": "kl_divergence", "temperature": "4"},
            "temperature='4' of distillation 'kl_divergence' must be a n",
        ),
        ({"distill": "l1", "teacher": "averagd"}, "unknown teacher 'averagd'; did you mean 'averaged'?"),
        ({"distill": "l1", "teacher": {"averaged": {"deca": 0.9}}}, "'deca'; did you mean 'decay'?"),
        ({"distill": "l1", "largest": {"teacher": "largest"}}, "cannot be its own teacher"),
        ({"rule": "largest", "samples": None, "data": "mean"}, "rule 'largest' trains one width alone"),
        ({"rule": "nonuniform", "range": None, "switches": [0.5, 1.0]}, "NonuniformSandwich trains a range"),
        ({"tested": "nonuniform", "range": None, "switches": [0.5, 1.0], "samples": 2}, "needs a range of widths"),
        ({"spectrum": 1}, "at least 2, over a range"),
        ({"behaviour": 0.1}, "behaviour=0.1 must be a width of 0.25 to 1"),
        ({"rule": "incremental", "samples": None}, "Incremental trains a list of switches"),
        ({**STAGES, "share": "half"}, "share='half' of the steps that a stage has must be whole or equal"),
        ({**STAGES, "norm": "shared"}, "norm 'shared' has statistics that every width moves"),
        ({**STAGES, "distill": "l1"}, "rule 'incremental' trains one width alone"),
        ({"rule": "resolutions", "sizes": 28}, "sizes=28 of rule 'resolutions' must be a list"),
        ({"heads": 0}, "heads=0 must be a whole number, at least 1"),
        ({"heads": 2, "search": "uniform", "budgets": [0.5]}, "'heads' cannot be combined with search or per_input"),
        ({"distill": "outputs", "distill_values": -1.0}, "distill_values=-1.0 must be a weight"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as error:
        Recipe.from_mapping(GOOD | change)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="name must be given"):
        Recipe.from_mapping({"kind": "individual"})


def test_widths_of_the_rule_derive_from_the_seed() -> None:
    recipe = Recipe.from_mapping(GOOD)
    assert isinstance(recipe.make_rule(0), Sandwich)
    assert recipe.make_rule(3).draw() == recipe.make_rule(3).draw() != recipe.make_rule(4).draw()


def test_only_allowed_widths_are_evaluated() -> None:
    assert Recipe.from_mapping(GOOD | {"range": [0.6, 1.0]}).evaluated(ToyTask()) == (0.75, 1.0)
    with pytest.raises(ValueError, match="no evaluated width"):
        Recipe.from_mapping(GOOD | {"range": [0.1, 0.2]}).evaluated(ToyTask())


@pytest.mark.parametrize(
    "change",
    [
        {"samples": None},
        {"data": 1},
        {"temperature": None},
        {"distill": "none"},
    ],
)
def test_a_default_that_is_written_out_is_the_same_recipe(change: dict[str, Any]) -> None:
    assert Recipe.from_mapping(GOOD | change).settings() == Recipe.from_mapping(GOOD).settings()


def test_settings_are_whole_and_make_the_same_recipe_again() -> None:
    described = {
        "distill": "kl_divergence",
        "weight": "balanced",
        "teacher": "averaged",
        "smallest": {"teacher": {"ensemble": {"of": "averaged"}}},
        "largest": {"data": 2},
    }
    recipe = Recipe.from_mapping(GOOD | described)
    settings = json.loads(json.dumps(recipe.settings()))
    averaged = {"averaged": {"decay": 0.997, "start": 0}}
    assert settings["temperature"] == 1.0 and settings["samples"] == 4 and settings["data"] == 0.0
    assert settings["teacher"] == averaged
    assert settings["smallest"]["teacher"]["ensemble"]["of"] == averaged
    again = Recipe.from_mapping({"name": "again", **settings})
    assert again.settings() == recipe.settings()
    assert Recipe("i", kind="individual").settings() == {"kind": "individual"}


def test_no_key_means_two_things() -> None:
    names = [*Recipe.model_fields, *LESSON]
    names += {key for rule in RULES for key in rule_parameters(rule)}
    names += {key for made_by in DISTILLED.values() for key in parameters_of(made_by)}
    assert len(set(names)) == len(names)


def test_a_rule_and_a_loss_of_ones_own_take_their_parameters_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(Sandwich):
        def __init__(self, widths: Any, samples: int = 4, above: float = 0.5, *, lesson: Any = None, seed: int = 0):
            super().__init__(widths, samples, lesson=lesson, seed=seed)
            self.above = above

    monkeypatch.setattr("slimlib.training.rules.RULES", {**RULES, "wide": Wide})
    monkeypatch.setattr("tasks.training.recipe.RULES", {**RULES, "wide": Wide})
    recipe = Recipe.from_mapping(GOOD | {"rule": "wide", "above": 0.75})
    assert recipe.make_rule(0).above == 0.75 and recipe.settings()["above"] == 0.75
    with pytest.raises(ValueError, match="'above' has no meaning for rule: sandwich; above belongs to rule: wide"):
        Recipe.from_mapping(GOOD | {"above": 0.75})


@pytest.mark.parametrize(
    ("task", "change", "says"),
    [
        ("rl", {"tested": "nonuniform"}, "'tested' has no meaning for task=rl"),
        ("rl", STAGES, "recipe 'r': rule 'incremental' trains in stages"),
        ("rl", {"rule": "random", "stability": "conflict"}, "recipe 'r': stability 'conflict' compares with"),
        ("rl", {"distill": "l1"}, "'distill: l1' has no meaning for task=rl"),
        ("rl", {"norm": "group"}, "'norm: group' has no meaning for task=rl"),
        ("rl", {"zero_scale": True}, "'zero_scale' has no meaning for task=rl"),
        ("rl", {"calibrate": 4}, "'calibrate' has no meaning for task=rl"),
        ("sr", {"average": "moving"}, "'average' has no meaning for task=sr"),
        ("sr", {"calibrate_on": "plain"}, "'calibrate_on' has no meaning for task=sr"),
        ("sr", {"heads": 2}, "'heads' has no meaning for task=sr"),
        ("sr", {"distill": "soft_cross_entropy"}, "'distill: soft_cross_entropy' has no meaning for task=sr"),
        ("sr", {"rule": "resolutions"}, "'rule: resolutions' has no meaning for task=sr"),
        ("detection", {"distill": "heads", "teacher": OF_LOGITS}, "'mean: probabilities' has no meaning for task=det"),
        ("sr", {"behaviour": "sampled"}, "'behaviour' has no meaning for task=sr"),
        ("sr", {"distill": "outputs"}, "'distill: outputs' has no meaning for task=sr"),
    ],
)
def test_keys_of_other_tasks_are_refused(task: str, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Recipe.from_mapping(GOOD | change).check_for(task)


def test_zero_scale_reaches_the_network() -> None:
    class OfResNets:
        def build(self, width: float = 1.0, *, norm: str = "batch") -> nn.Module:
            return models.build("resnet8", classes=10, size=64, width=width)

    recipe = Recipe("zero", range=(0.25, 1.0), rule="sandwich", zero_scale=True)
    last = [block.body[-1].weight for block in recipe.build(OfResNets()).features if hasattr(block, "body")]
    assert len(last) == 3 and not torch.stack([weight.abs().max() for weight in last]).any()
    assert recipe.training() != recipe.replace(zero_scale=None).training()
