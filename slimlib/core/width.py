"""Widths: what a user may ask for, and how it becomes channel numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any


@dataclass(frozen=True, init=False)
class WidthPlan:
    """A non-uniform width: for each group of layers that must agree, its number of active channels.

    `net.slim` prints the groups in order. A group before a PixelShuffle counts in whole units
    (one unit is r * r of its channels).

    Raises:
        ValueError: a channel number is not a whole number.
    """

    channels: tuple[int, ...]

    def __init__(self, channels: Iterable[int]) -> None:
        try:
            object.__setattr__(self, "channels", tuple(map(operator.index, channels)))
        except TypeError:
            raise ValueError(
                f"WidthPlan({channels!r}): needs a whole number of channels for each group of layers, "
                "for example WidthPlan([16, 24])"
            ) from None


Width = float | WidthPlan


@dataclass(frozen=True)
class WidthRange:
    """Every width from `smallest` to `largest`: a universally slimmable network (US-Nets).

    Raises:
        ValueError: not 0 < smallest <= largest <= 1.
    """

    smallest: float
    largest: float = 1.0

    def __post_init__(self) -> None:
        ends = self.smallest, self.largest
        if not all(map(is_number, ends)) or not 0 < self.smallest <= self.largest <= 1:
            raise ValueError(
                f"WidthRange({self.smallest!r}, {self.largest!r}): needs 0 < smallest <= largest <= 1, "
                "for example WidthRange(0.25, 1.0)"
            )
        object.__setattr__(self, "smallest", float(self.smallest))
        object.__setattr__(self, "largest", float(self.largest))

    def __contains__(self, width: Any) -> bool:
        return is_number(width) and self.smallest <= width <= self.largest

    def __str__(self) -> str:
        return f"{self.smallest:g} to {self.largest:g}"


@dataclass(frozen=True, init=False)
class Switches:
    """A short, fixed list of widths: a switchable network (S-Nets).

    All are fractions in (0, 1], or all are plans of the same network (AutoSlim): a `WidthPlan`, or what
    `slimlib.search` found. They are sorted from narrow to wide, plans by their total number of channels.

    Raises:
        ValueError: no width, one outside (0, 1], one given twice, or plans of different networks.
    """

    widths: tuple[Width, ...]

    def __init__(self, *widths: Width) -> None:
        widths = tuple(getattr(width, "plan", width) for width in widths)
        plans = [w for w in widths if isinstance(w, WidthPlan)]
        numbers = [w for w in widths if not isinstance(w, WidthPlan)]
        if plans:
            if numbers or len({len(plan.channels) for plan in plans}) > 1:
                raise ValueError(f"Switches{widths}: all must be numbers, or all a WidthPlan with as many groups")
            if len(set(plans)) < len(plans):
                raise ValueError(f"Switches{widths}: each WidthPlan must be there only once")
        elif not numbers or not all(is_number(w) and 0 < w <= 1 for w in numbers) or len(set(numbers)) < len(numbers):
            raise ValueError(
                f"Switches{widths}: needs at least one width, each in (0, 1] and only once, "
                "for example Switches(0.25, 0.5, 0.75, 1.0)"
            )
        given: list[Width] = [*plans, *map(float, numbers)]
        object.__setattr__(self, "widths", tuple(sorted(given, key=by_size)))

    @property
    def smallest(self) -> Width:
        return self.widths[0]

    @property
    def largest(self) -> Width:
        return self.widths[-1]

    def __contains__(self, width: object) -> bool:
        return width in self.widths

    def __str__(self) -> str:
        return ", ".join(map(label, self.widths))


def by_size(width: Width) -> tuple[float, ...]:
    """The key by which widths of one kind are sorted, narrow ones first."""
    return (sum(width.channels), *width.channels) if isinstance(width, WidthPlan) else (width,)


def label(width: Width) -> str:
    """A width as it is shown in messages."""
    return str(width) if isinstance(width, WidthPlan) else f"{width:g}"


Widths = WidthRange | Switches


def as_widths(given: object) -> Widths:
    """What was given as the widths of a network or of a rule.

    Raises:
        ValueError: it is something else, such as a list of numbers.
    """
    if not isinstance(given, Widths):
        raise ValueError(
            f"widths={given!r} must be Switches, such as Switches(0.5, 1.0), for a fixed list, "
            "or a WidthRange, such as WidthRange(0.25, 1.0), for every width between"
        )
    return given


def fitting_divisor(full: int, divisor: int) -> int:
    """The divisor, halved until a layer of `full` channels has at least two of it."""
    while divisor > 1 and full < 2 * divisor:
        divisor //= 2
    return divisor


def round_channels(full: int, width: float, divisor: int = 8) -> int:
    """Active channels of a layer of `full` channels at a width in (0, 1].

    The nearest multiple of the divisor, halves up, at least one divisor, and one more where that
    would lose over 10 %; never more than `full`, and exactly `full` at 1.0. A layer with fewer than
    two divisors of channels takes a smaller one.

    Source: Sandler et al. 2018 (MobileNetV2), the rounding of their published code.
    """
    if width >= 1:
        return full
    divisor = fitting_divisor(full, divisor)
    wanted = full * width
    channels = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    if channels < 0.9 * wanted:
        channels += divisor
    return min(channels, full)


def check_width(width: Width, allowed: Widths) -> None:
    """Raise ValueError, with the allowed values, unless `width` is one a user may set."""
    if isinstance(width, WidthPlan) or width in allowed:
        return
    if not is_number(width):
        if isinstance(plan := getattr(width, "plan", None), WidthPlan):
            raise ValueError(f"a {type(width).__name__} is more than a width; pass its .plan: {plan}")
        raise ValueError(f"width {width!r} is neither a number in (0, 1] nor a WidthPlan")
    what = "not a number" if math.isnan(width) else "outside what this network was converted for"
    raise ValueError(f"width {width:g} is {what}; allowed: {allowed}")


def check_is(kind: Any, right: str, /, **given: object) -> None:
    """Raise TypeError unless each is of a type; `right` says what it must be."""
    for name, value in given.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be {right}, and is {type(value).__name__}")


def is_number(value: object) -> bool:
    """Whether this is a number, of Python or NumPy; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object, least: int) -> bool:
    """Whether this is a whole number of Python, at least `least`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_whole(**numbers: tuple[object, int]) -> None:
    """Raise ValueError unless each, with the least that it may be, is a whole number."""
    for name, (number, least) in numbers.items():
        if not is_whole(number, least):
            raise ValueError(f"{name}={number!r} must be a whole number, at least {least}")
