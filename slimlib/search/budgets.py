"""Budgets of a search: a share of the multiply-adds, or a number of multiply-adds, parameters or milliseconds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from slimlib.core.width import is_number

Unit = Literal["macs", "params", "ms"]
PREFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
PATTERN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kKMGB]?)\s*(macs|params|ms)?\s*")
EXAMPLES = "0.5 (half of the multiply-adds), '300M macs', '4.2M params' or '10 ms'"


@dataclass(frozen=True)
class Budget:
    """The most that a plan may cost: `amount` of `unit`, "macs" (multiply-adds), "params" or "ms" (milliseconds).

    share: `amount` is a share in (0, 1] of what the full network costs.

    Raises:
        ValueError: the amount is not positive, a share above 1, or there is no such unit.
    """

    amount: float
    unit: Unit = "macs"
    share: bool = False

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ValueError(f"budget of {self.unit!r}: the unit must be one of {', '.join(get_args(Unit))}")
        positive = is_number(self.amount) and 0 < self.amount < float("inf")
        if not positive or (self.share and self.amount > 1):
            amount = f"{self.amount:g}" if is_number(self.amount) else repr(self.amount)
            raise ValueError(f"budget {amount} is impossible; possible are for example {EXAMPLES}")

    def __str__(self) -> str:
        return f"{self.amount:g} of all {self.unit}" if self.share else f"{self.amount:g} {self.unit}"


def read_budget(given: Any) -> Budget:
    """A budget as users write it: a number in (0, 1], a text such as "300M macs", or a `Budget`.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(given, Budget):
        return given
    if isinstance(given, str) and (match := PATTERN.fullmatch(given)):
        number, prefix, unit = match.groups()
        if prefix or unit:  # "0.5" alone does not say what of
            return Budget(float(number) * PREFIXES[prefix], cast(Unit, unit or "macs"))
    if isinstance(given, int | float) and not isinstance(given, bool) and 0 < given <= 1:
        return Budget(float(given), share=True)
    raise ValueError(
        f"budget {given!r} is neither a share in (0, 1] nor an amount with a unit; write for example {EXAMPLES}"
    )


def read_budgets(given: Sequence[Any]) -> list[Budget]:
    """Budgets of one unit, in the order given.

    Raises:
        ValueError: there is none, one twice, or their units differ.
    """
    several = isinstance(given, Iterable) and not isinstance(given, str)
    budgets = [read_budget(one) for one in (given if several else [given])]
    if not budgets:
        raise ValueError(f"a search needs a budget; write for example budgets=[{EXAMPLES.split(' ')[0]}]")
    if len({budget.unit for budget in budgets}) > 1:
        raise ValueError(f"budgets of one search must have one unit; got {', '.join(map(str, budgets))}")
    if len(set(budgets)) < len(budgets):
        raise ValueError(f"each budget must be there only once; got {', '.join(map(str, budgets))}")
    return budgets
