"""The training rules by the names that settings files use."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from slimlib.core.width import Widths
from slimlib.training.distillation import Lessons
from slimlib.training.incremental import Incremental
from slimlib.training.named import make, parameters_of
from slimlib.training.nonuniform import NonuniformSandwich
from slimlib.training.rule import Rule
from slimlib.training.sandwich import (
    EveryWidth,
    LargestAlone,
    LargestAndRandom,
    RandomWidths,
    Sandwich,
    SmallestAndRandom,
)
from slimlib.training.variants import GrowingSandwich, MultiResolutionSandwich

RULES: Mapping[str, type[Rule]] = MappingProxyType(
    {
        "sandwich": Sandwich,
        "nonuniform": NonuniformSandwich,
        "growing": GrowingSandwich,
        "resolutions": MultiResolutionSandwich,
        "random": RandomWidths,
        "smallest-random": SmallestAndRandom,
        "largest-random": LargestAndRandom,
        "every": EveryWidth,
        "largest": LargestAlone,
        "incremental": Incremental,
    }
)
ELSEWHERE = ("widths", "lesson", "seed", "distill")
"""Parameters of rules that are nobody's own."""


def rule_named(name: str, widths: Widths, *, lessons: Lessons | None = None, seed: int = 0, **own: Any) -> Rule:
    """A rule by its name.

    Args:
        own: parameters of this rule.

    Raises:
        ValueError: there is no such rule or parameter, with the nearest right one, or the rule refuses them.
    """
    if lessons is not None and not takes_lessons(name):
        raise ValueError(f"rule '{name}' trains one width alone, which learns from the data; it has no distillation")
    elsewhere = dict(zip(ELSEWHERE, (widths, lessons, seed, None), strict=True))
    return make("rule", RULES, name, own, elsewhere=elsewhere)


def check_for_policy(name: str, rule: Rule, stability: str = "none") -> None:
    """Raise ValueError unless a rule of this name can train a policy, with what `slimlib.rl` calls its stability."""
    if type(rule).stage is not Rule.stage:
        raise ValueError(
            f"rule '{name}' trains in stages, each with an optimizer of its own, and a policy has one for its whole "
            "training; use 'every'"
        )
    if stability == "conflict" and not rule.trains_largest:
        raise ValueError(
            f"stability 'conflict' compares with the gradient of the full width, which rule '{name}' does not train in "
            "each step; use stability 'none', or a rule that does, such as 'sandwich'"
        )


def rule_parameters(name: str) -> dict[str, Any]:
    """The parameters of a rule of its own, with their defaults."""
    return {} if name not in RULES else parameters_of(RULES[name], without=ELSEWHERE)


def takes_lessons(name: str) -> bool:
    """Whether a width of this rule can learn from another."""
    return name not in RULES or "lesson" in parameters_of(RULES[name])
