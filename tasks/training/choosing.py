"""What recipes say of choosing channels: by a search on a trained network, or by the order of its channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from slimlib.search.budgets import Budget, read_budgets
from slimlib.search.searching import Method
from tasks.settings import Settings, setting, unknown
from tasks.training.problem import HELD_OUT

SEARCHES: Mapping[str, tuple[Method, Mapping[str, Any]]] = {
    "uniform": ("uniform", {}),
    "random": ("random", {}),
    "greedy": ("greedy", {}),
    "greedy-by-step": ("greedy", {"per": "step"}),
    "evolution": ("evolution", {}),
    "ranking": ("ranking", {}),
    "learned-ranking": ("ranking", {}),
}
"""What `search` stands for: the method of `slimlib.search` and its arguments."""
ORDERS = ("trained", "shuffled", "l2", "batchnorm", "consumers", "taylor", "learned")
EFFORT = {"steps": 12, "evaluations": 500, "population": 50, "batches": 16}
"""Of a search, where `effort` says nothing: its arguments, and the batches that it calibrates and scores on."""
OF_INDIVIDUALS = ("budgets", "held_out")
"""Keys that individual networks have, too: they are then those of the uniform widths within the budgets."""


class Choosing(Settings):
    """The keys of a recipe that decide how the channels of its networks are chosen.

    They are chosen in a network that is trained as the recipe says; where `order` is given, in one that is trained at
    full width alone, and then sorted. It does not learn from what is held out, on which plans are scored.
    """

    search: str | None = setting(None, f"how plans within the budgets are found: {', '.join(SEARCHES)}")
    budgets: tuple[float | str, ...] | None = setting(
        None, "what plans may cost: shares of all multiply-adds, or texts", strict=False, examples=[[0.5, 0.25]]
    )
    order: str | None = setting(
        None, f"plans are found in a network trained at full width, its channels in this order: {', '.join(ORDERS)}"
    )
    retrain: Literal["scratch", "further"] | None = setting(
        None, "train the plans as switches: from new weights, or on from those they were found with; none: not at all"
    )
    retrained: float | None = setting(None, "for this share of the steps; none: for all", gt=0, le=1)
    held_out: float | None = setting(
        None, f"share of the training data that plans are scored on; none: {HELD_OUT}", gt=0, lt=1
    )
    effort: Mapping[str, int] | None = setting(None, f"of the search: {', '.join(EFFORT)}", examples=[{"steps": 12}])

    def check_choosing(self, *, individual: bool) -> None:
        """Raise ValueError where a key has no meaning beside the others."""
        given = [key for key in Choosing.model_fields if getattr(self, key) is not None]
        if self.search is None and self.budgets is not None and not individual:
            raise ValueError("'budgets' have no meaning without search: how plans within them are found")
        if self.search is not None and self.budgets is None:
            raise ValueError("a search needs budgets, for example budgets: [0.5, 0.25]")
        if self.budgets is None and given:
            raise ValueError(f"'{given[0]}' has no meaning without search, and budgets")
        if self.retrained is not None and self.retrain is None:
            raise ValueError("'retrained' has no meaning without retrain: scratch or further")
        for what, one, table in (("search", self.search, SEARCHES), ("order", self.order, ORDERS)):
            if one is not None and one not in table:
                raise unknown(what, one, table)
        for name, number in (self.effort or {}).items():
            if name not in EFFORT:
                raise unknown("key of effort", name, EFFORT)
            if number < 1:
                raise ValueError(f"effort.{name}={number} must be at least 1")
        self.points_within()

    def points_within(self) -> dict[str, Budget]:
        """Name of each operating point -> its budget, as given; empty where nothing is chosen."""
        return {} if self.budgets is None else {point_within(budget): budget for budget in read_budgets(self.budgets)}

    def in_force(self) -> dict[str, int]:
        """The effort of the search."""
        return {**EFFORT, **(self.effort or {})}


def point_within(budget: Budget) -> str:
    """The name of the operating point that is the plan for a budget: `budget 0.5`, or `budget 300M macs`."""
    sizes = [] if budget.share else [(1e9, "G"), (1e6, "M"), (1e3, "k")]
    size, letter = next(((size, letter) for size, letter in sizes if budget.amount >= size), (1.0, ""))
    unit = "" if budget.share else f" {budget.unit}"
    return f"budget {budget.amount / size:g}{letter}{unit}"
