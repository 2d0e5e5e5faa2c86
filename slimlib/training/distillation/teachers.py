"""Teachers: the largest width of a step, an average of the network over the steps, or several widths together."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from slimlib.core.structures import map_tensors, tensors
from slimlib.core.width import Width, is_number, is_whole, label
from slimlib.training.named import make
from slimlib.training.step import Average, Step


class Teacher(ABC):
    """Whose output a width learns from."""

    needs_largest = False  # the step must train the largest width

    def hears(self, position: int) -> bool:
        """Whether it uses the output of the width that is trained at this position of a step."""
        return False

    def averages(self) -> tuple[AveragedTeacher, ...]:
        """Which averages of the network it needs."""
        return ()

    @abstractmethod
    def teach(self, step: Step, largest: Width, width: Width) -> Any:
        """What `width` should put out, detached; `largest` is the largest width that the rule trains."""


@dataclass(frozen=True)
class Largest(Teacher):
    """The largest width of this step.

    Source: Yu & Huang 2019 (US-Nets), in-place distillation.
    """

    needs_largest = True

    def hears(self, position: int) -> bool:
        return position == 0

    def teach(self, step: Step, largest: Width, width: Width) -> Any:
        return step.output(step.widths[0])


@dataclass(frozen=True)
class AveragedTeacher(Teacher):
    """The largest width of an exponential moving average of the network, which is less noisy than the network.

    The rule keeps the average, in its `state_dict`, and updates it at the beginning of each `backward`. BatchNorm
    normalises by the batch, as it does in the network that is trained.

    Args:
        decay: the share of the average that a step keeps; its memory is 1 / (1 - decay) steps long.
        start: the step in which it begins, as a copy of the network. Until then the network itself teaches.

    Raises:
        ValueError: not 0 <= decay < 1, or `start` is not a whole number of steps.

    Source: Li et al. 2021 (DS-Net), in-place ensemble bootstrapping, decay 0.997; Tarvainen & Valpola 2017.
    """

    decay: float = 0.997
    start: int = 0

    def __post_init__(self) -> None:
        if not is_number(self.decay) or not 0 <= self.decay < 1:
            raise ValueError(f"decay={self.decay!r} of an averaged teacher must be in [0, 1), such as 0.997")
        if not is_whole(self.start, 0):
            raise ValueError(f"start={self.start!r} of an averaged teacher must be a number of steps, such as 1000")

    def averages(self) -> tuple[AveragedTeacher, ...]:
        return (self,)

    def hears(self, position: int) -> bool:
        return position == 0 and self.start > 0

    def teach(self, step: Step, largest: Width, width: Width) -> Any:
        return step.output(largest, average=self if step.begun(self) else None)

    def begin(self) -> Average:
        """Its average, of nothing yet."""
        return Average(self.decay, self.start)


@dataclass(frozen=True)
class Ensemble(Teacher):
    """The mean of the outputs of several widths.

    Args:
        widths: which; None: those of this step that are wider than the one that learns.
        of: "largest", the widths of the network itself, or an `AveragedTeacher`, those of the average.
        mean: of "outputs", or of "probabilities": then outputs are logits [N, classes, ...], and so is the mean.

    Raises:
        ValueError: an argument is not one of these.

    Source: Li et al. 2021 (DS-Net), in-place ensemble bootstrapping: the teacher of the smallest width.
    """

    widths: Sequence[Width] | None = None
    of: Teacher | str | Mapping[str, Any] = "largest"
    mean: Literal["outputs", "probabilities"] = "outputs"

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", as_teacher(self.of))
        if isinstance(self.of, Ensemble):
            raise ValueError("an ensemble is of the network or of an AveragedTeacher, not of another ensemble")
        if self.mean not in ("outputs", "probabilities"):
            raise ValueError(f"mean={self.mean!r} of an ensemble must be 'outputs' or 'probabilities'")
        if self.widths is not None:
            if isinstance(self.widths, str) or not isinstance(self.widths, Sequence) or not self.widths:
                raise ValueError(f"widths={self.widths!r} of an ensemble must be a list of widths, such as [0.5, 1.0]")
            object.__setattr__(self, "widths", tuple(self.widths))

    @property
    def needs_largest(self) -> bool:  # type: ignore[override]
        return self.widths is None

    def averages(self) -> tuple[AveragedTeacher, ...]:
        return self.of.averages()  # type: ignore[union-attr]

    def hears(self, position: int) -> bool:
        return not self.averages() or self.of.hears(0)  # type: ignore[union-attr]

    def teach(self, step: Step, largest: Width, width: Width) -> Any:
        members = self.widths or step.widths[: step.widths.index(width)]
        if not members:
            raise ValueError(f"no width of this step is wider than {label(width)}, which learns from those that are")
        average = next((a for a in self.averages() if step.begun(a)), None)
        outputs = [step.output(member, average=average) for member in members]
        joined = iter([self._joined(*same) for same in zip(*map(tensors, outputs), strict=True)])
        return map_tensors(lambda _: next(joined), outputs[0])

    def _joined(self, *outputs: Tensor) -> Tensor:
        first = outputs[0]
        if not first.is_floating_point() and not first.is_complex():
            return first
        if self.mean == "outputs":
            return torch.stack(outputs).mean(0)
        if first.ndim < 2:
            raise ValueError(
                "mean='probabilities' of an ensemble takes logits [N, classes, ...], and the network returned a tensor "
                f"{list(first.shape)}; use mean='outputs'"
            )
        return torch.stack([output.log_softmax(1) for output in outputs]).logsumexp(0) - math.log(len(outputs))


LARGEST = Largest()
TEACHERS: Mapping[str, type[Teacher]] = MappingProxyType(
    {"largest": Largest, "averaged": AveragedTeacher, "ensemble": Ensemble}
)
"""The teachers by the names that settings files use."""


def describe(teacher: Teacher) -> str | dict[str, Any]:
    """What `as_teacher` makes this teacher from: plain data, defaults included."""
    name = next(name for name, kind in TEACHERS.items() if type(teacher) is kind)
    values = {field.name: getattr(teacher, field.name) for field in fields(teacher)}  # type: ignore[arg-type]
    plain = {key: describe(value) if isinstance(value, Teacher) else value for key, value in values.items()}
    return {name: {key: list(v) if isinstance(v, tuple) else v for key, v in plain.items()}} if plain else name


def as_teacher(given: Teacher | str | Mapping[str, Any]) -> Teacher:
    """A teacher, or what settings files say of one: its name, or {its name: {its parameters}}.

    Raises:
        ValueError: there is no such teacher, or it has no such parameter; with the nearest right one.
    """
    if isinstance(given, Teacher):
        return given
    if isinstance(given, Mapping) and len(given) == 1:
        ((name, parameters),) = given.items()
        return make("teacher", TEACHERS, name, {} if parameters is None else parameters)
    return make("teacher", TEACHERS, given, {})
