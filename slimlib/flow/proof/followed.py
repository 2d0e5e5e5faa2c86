"""What one analysis found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from slimlib.core.layout import Layout
from slimlib.flow.ids import AtomKey, Shadow, WeightRef, distinct
from slimlib.flow.proof.axes import Axes
from slimlib.flow.solve import Solution
from slimlib.flow.steps import Moment, Site, Step
from slimlib.flow.ties import Ties


@dataclass
class Followed:
    """What one analysis found: the ties, the steps in eval and in training, what entered each module, the layout."""

    net: nn.Module
    ties: Ties
    logs: Mapping[bool, Sequence[Step]]
    entered: Mapping[str, Sequence[Tensor]]
    solution: Solution
    layout: Layout
    sums: dict[tuple[Any, ...], tuple[int, dict[Moment, list[Any]]]] = field(default_factory=dict)  # of masked runs
    scales: set[Site] = field(default_factory=set)  # products with a number that is another at another width

    @property
    def training_differs(self) -> bool:
        """Whether training runs other operations than eval, or some in another way."""
        runs = [[step.settings for step in self.logs[mode] if not step.copies] for mode in (False, True)]
        return self.moments(False) != self.moments(True) or runs[0] != runs[1]

    def moments(self, training: bool) -> list[Moment]:
        """The operations of a run."""
        return [step.moment for step in self.logs[training] if not step.copies]

    @cached_property
    def axes(self) -> Axes:
        """The axes that are known in each module."""
        return Axes(self.net, self.ties, self.logs, self.entered, self.solution)

    @cached_property
    def units(self) -> dict[AtomKey, Tensor]:
        """The channels of each parameter, with the smallest id of each unit."""
        return {key: self.solution.labels[ids] for key, ids in self.ties.atoms.items()}

    @cached_property
    def expected(self) -> dict[bool, dict[Moment, Step]]:
        """The steps of each log by their moments, with the smallest id of each unit for all of it."""
        return {mode: {s.moment: self._by_units(s) for s in log if not s.copies} for mode, log in self.logs.items()}

    def _by_units(self, step: Step) -> Step:
        labels = self.solution.labels
        outputs = [labels[distinct(x)].expand(x.shape) if isinstance(x, Tensor) else x for x in step.outputs]
        return replace(step, outputs=outputs)

    def slims(self, shadow: Shadow | None) -> bool:
        """Whether any channel of a tensor slims."""
        if isinstance(shadow, WeightRef):
            return any(self.slims(axis.ids) for axis in shadow.axes)
        return shadow is not None and bool(self.solution.slims[distinct(shadow)].any())
