"""The recipes of an ablation, made from its file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.settings.groups import Ablation
from tasks.training.recipe import Recipe

MEANT_FOR = ("tasks", "scales")
"""Keys of a recipe that say where it is left out."""


def read_recipes(ablation: Mapping[str, Any], task: str, scale: str | None = None) -> tuple[Recipe, ...]:
    """The recipes of an ablation that are for this task and scale; None: for any scale.

    Raises:
        ValueError: in one line: a key or value is wrong, or the ablation is for other tasks.
    """
    checked = Ablation(**ablation)
    if checked.tasks and task not in checked.tasks:
        others = ", ".join(checked.tasks)
        raise ValueError(f"ablation={checked.name} has no meaning for task={task}; it is for {others}")
    recipes = []
    for own in checked.recipes:
        if task not in own.get("tasks", [task]) or scale not in (None, *own.get("scales", [scale])):
            continue
        shared = {} if own.get("kind") == "individual" else checked.slimmable
        recipe = Recipe.from_mapping({**shared, **{key: value for key, value in own.items() if key not in MEANT_FOR}})
        recipe.check_for(task)
        recipes.append(recipe)
    return tuple(recipes)
