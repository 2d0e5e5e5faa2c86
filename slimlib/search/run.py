"""What all methods of search share: plans that were scored are remembered, and progress is told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from slimlib.core.width import WidthPlan
from slimlib.search.chain import Plan
from slimlib.search.evaluation import Evaluation
from slimlib.search.plan_file import SearchFile, Visited
from slimlib.search.progress import Listener, Progress
from slimlib.search.space import Space
from slimlib.search.workers import scores_in_processes


@dataclass
class Run:
    """Scores plans of a space, each once.

    best: the score of the plan that is held best now, for progress.
    part: share of the whole search that is done, and how much the part that runs now adds to it.
    """

    evaluation: Evaluation
    file: SearchFile
    workers: int = 1
    listener: Listener | None = None
    best: float = float("nan")
    part: tuple[float, float] = (0.0, 1.0)
    _began: float = field(default_factory=time.monotonic)

    def scores(self, plans: Sequence[Plan]) -> list[float]:
        """The score of each plan."""
        known = self.file.scores
        new = [plan for plan in dict.fromkeys(plans) if plan not in known]
        for plan, score in scores_in_processes(self.evaluation, new, self.workers):
            self.file.add(plan, score)
        return [known[plan] for plan in plans]

    def visit(self, space: Space, levels: Tensor) -> list[Visited]:
        """Plans, given as levels [plans, groups], with their costs and scores."""
        channels = space.channels(levels)
        plans = [tuple(row) for row in channels.tolist()]
        rows = zip(plans, space.measure(channels).tolist(), self.scores(plans), strict=True)
        return [Visited(WidthPlan(plan), cost, score) for plan, cost, score in rows]

    def tell(self, done: float, best: float) -> None:
        """Report that a share of the part that runs now is done."""
        self.best = best
        if self.listener is not None:
            before, share = self.part
            whole = min(before + share * done, 1.0)
            self.listener(Progress(whole, len(self.file.scores), time.monotonic() - self._began, best))
