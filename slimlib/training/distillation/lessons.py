"""Lessons: what each width of a step learns from, and how much the data and the teacher weigh."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from slimlib.core.width import Width, is_number
from slimlib.training.distillation.losses import DISTILLATIONS, Distillation
from slimlib.training.distillation.teachers import LARGEST, Teacher, as_teacher, describe
from slimlib.training.named import parameters_of, unknown
from slimlib.training.step import Loss, scalar

Weight = float | Literal["balanced", "mean"]
"""Of a loss in a step of n widths: a number, "balanced", 1 / (n - 1), or "mean", 1 / n."""


@dataclass(frozen=True)
class Lesson:
    """What a width learns from: `data` * loss(output) + `weight` * distill(output, teacher's output).

    Args:
        data: weight of the loss on the data.
        distill: how far the output is from the teacher's, such as `soft_cross_entropy`; None: no teacher.
        weight: of the distillation. As published it is 1 for each student, so that n - 1 students together weigh as
            much as n - 1 data losses; with "balanced" as much as one.
        teacher: "largest", the largest width of this step; or an `AveragedTeacher` or `Ensemble`.

    Raises:
        ValueError: a weight is not a number of at least 0 (or "balanced" or "mean"), there is nothing to learn from,
            or `distill` cannot be called with two outputs.
    """

    data: Weight = 1.0
    distill: Distillation | None = None
    weight: Weight = 1.0
    teacher: Teacher | str | Mapping[str, Any] = "largest"

    def __post_init__(self) -> None:
        object.__setattr__(self, "teacher", as_teacher(self.teacher))
        for name in ("data", "weight"):
            object.__setattr__(self, name, _checked_weight(name, getattr(self, name)))
        if self.distill is not None:
            _check_distillation(self.distill)
        elif self.weight != 1 or self.teacher != LARGEST:
            raise ValueError("a lesson's weight and teacher belong to distillation; give distill=, for example slim.l1")
        if self.data == 0 and self.taught_by is None:
            raise ValueError("a lesson needs something to learn from: data above 0, or distill and a weight above 0")

    @property
    def taught_by(self) -> Teacher | None:
        """The teacher, if one is asked."""
        return None if self.distill is None or self.weight == 0 else self.teacher  # type: ignore[return-value]

    def loss(self, output: Any, taught: Any, of_data: Loss, width: Width, count: int) -> Tensor:
        """The loss of an output: a scalar.

        Args:
            output: of the width that learns.
            taught: the teacher's, detached.
            of_data: (output, width) -> scalar.
            width: that learns, one of `count` of the step.
        """
        parts = [] if self.data == 0 else [_weighted(scalar("loss", of_data(output, width)), self.data, count)]
        if self.distill is not None and self.taught_by:
            parts.append(_weighted(scalar("distill", self.distill(output, taught)), self.weight, count))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


@dataclass(frozen=True)
class Lessons:
    """The lesson of each width of a step.

    Args:
        between: of all but the smallest and the largest that the rule trains.
        smallest: None: the same.
        largest: None: the data alone, with weight 1; or 1 / n where the others learn from the data by the "mean".

    Raises:
        ValueError: one is not a `Lesson`, or the largest is its own teacher.
    """

    between: Lesson
    smallest: Lesson | None = None
    largest: Lesson | None = None

    def __post_init__(self) -> None:
        for name in ("between", "smallest", "largest"):
            given = getattr(self, name)
            if not isinstance(given, Lesson) and (given is not None or name == "between"):
                raise ValueError(f"{name}={given!r} must be a Lesson, such as Lesson(data=0.5, distill=slim.l1)")
        if self.smallest is None:
            object.__setattr__(self, "smallest", self.between)
        if self.largest is None:
            object.__setattr__(self, "largest", Lesson("mean" if self.between.data == "mean" else 1.0))
        elif self.largest.taught_by is not None and self.largest.taught_by.needs_largest:
            raise ValueError("the largest width cannot be its own teacher; use an AveragedTeacher for it")

    @property
    def all(self) -> tuple[Lesson, Lesson, Lesson]:
        """Largest, between, smallest."""
        return self.largest, self.between, self.smallest  # type: ignore[return-value]


def as_lessons(distill: Distillation | None, lesson: Lesson | Lessons | None) -> Lessons:
    """The lessons that a rule was given, of which `distill` is the short form.

    Raises:
        ValueError: both are given, or something else.
    """
    if lesson is None:
        return Lessons(Lesson() if distill is None else Lesson(data=0.0, distill=distill))
    if distill is not None:
        raise ValueError("distill=f is short for lesson=Lesson(data=0, distill=f); give one of the two")
    if not isinstance(lesson, Lesson | Lessons):
        raise ValueError(f"lesson={lesson!r} must be a Lesson, such as Lesson(data=0.5, distill=slim.l1, weight=0.5)")
    return lesson if isinstance(lesson, Lessons) else Lessons(lesson)


def lessons_named(
    distill: Distillation | None,
    *,
    data: Weight | None = None,
    weight: Weight = 1.0,
    teacher: Teacher | str | Mapping[str, Any] = "largest",
    smallest: Mapping[str, Any] | None = None,
    largest: Mapping[str, Any] | None = None,
    **others: Any,
) -> Lessons:
    """The lessons that settings files describe.

    Args:
        distill: the loss of all of them.
        data: see `Lesson`; None: 0 with a teacher, 1 without.
        weight, teacher: see `Lesson`.
        smallest: data, weight and teacher of the smallest width, where they differ.
        largest: the same of the largest, which learns from a teacher only where a weight or teacher is given.

    Raises:
        ValueError: what `Lesson` and `Lessons` refuse, or another key than these.
    """
    for key in others:
        raise unknown("key of a lesson", key, LESSON)
    for name, given in (("smallest", smallest or {}), ("largest", largest or {})):
        if not isinstance(given, Mapping):
            raise ValueError(f"{name} must be keys and values of a lesson, such as {{data: 0.5}}; got {given!r}")
        for key in given:
            if key not in OWN:
                raise unknown(f"key of {name}:", key, OWN)
    if data is None:
        data = 1.0 if distill is None else 0.0
    between = Lesson(data, distill, weight, teacher)
    of_largest = None
    if largest:
        taught = largest.keys() & {"weight", "teacher"}
        of_largest = replace(between, **{"data": 1.0, **largest}) if taught else Lesson(**largest)
    return Lessons(between, replace(between, **smallest) if smallest else None, of_largest)


def lesson_settings(lessons: Lessons) -> dict[str, Any]:
    """What `lessons_named` makes these lessons from, apart from the loss: plain data, defaults included."""
    largest, between, smallest = lessons.all
    plain = _plain(between)
    if smallest != between:
        plain["smallest"] = _plain(smallest)
    if largest != Lessons(between).largest:
        plain["largest"] = _plain(largest)
    return plain


def _plain(lesson: Lesson) -> dict[str, Any]:
    of_teacher = {"weight": lesson.weight, "teacher": describe(lesson.taught_by)} if lesson.taught_by else {}
    return {"data": lesson.data, **of_teacher}


LESSON = tuple(parameters_of(lessons_named, without=("distill",)))
"""The keys of a lesson in settings files."""
OWN = LESSON[:3]
"""Those that the smallest and the largest width may have of their own."""


def _weighted(value: Tensor, weight: Weight, count: int) -> Tensor:
    if isinstance(weight, str):
        weight = 1 / count if weight == "mean" else 1 / max(count - 1, 1)
    return value if weight == 1 else value * weight


def _checked_weight(name: str, weight: Any) -> Weight:
    if weight == "balanced" or weight == "mean":
        return weight  # type: ignore[no-any-return]
    if not is_number(weight) or not 0 <= weight < math.inf:
        raise ValueError(
            f"{name}={weight!r} must be a number of at least 0, 'balanced' (1 / (n - 1)) or 'mean' (1 / n)"
        )
    return float(weight)


def _check_distillation(distill: object) -> None:
    if isinstance(distill, Lesson | Lessons):
        raise ValueError("distill is a loss of (student, teacher); give a lesson as lesson=")
    if not callable(distill):
        raise ValueError(f"distill={distill!r} must be a loss of (student, teacher), such as slim.soft_cross_entropy")
    name = getattr(distill, "__name__", repr(distill))
    if any(distill is factory for factory in DISTILLATIONS.values()):
        raise ValueError(f"distill={name} is no loss of (student, teacher); it makes such a loss: distill={name}()")
    try:
        inspect.signature(distill).bind(None, None)
    except TypeError:
        raise ValueError(f"distill={name} cannot be called as {name}(student, teacher)") from None
    except ValueError:  # of a function in C
        pass
