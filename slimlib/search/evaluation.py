"""Scores of plans: the loss of the sliced network, with BatchNorm statistics of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.calibration import calibrate, write_statistics
from slimlib.core.arguments import arguments, run_on
from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.setting import at_width, in_eval, slimming_of
from slimlib.core.statistics import STATISTICS, OfWidth, drop_buffer, tracks
from slimlib.core.width import WidthPlan, check_is
from slimlib.search.chain import Plan
from slimlib.search.reuse import NotRepeated, Reuse, usable_chain

Score = Callable[[nn.Module], float]
Statistics = dict[nn.Module, tuple[Tensor, Tensor]]


class Evaluation:
    """Runs plans of a network and scores them; the network is afterwards as it was.

    Args:
        net: a slimmable network.
        score: (net) -> loss; called in eval mode, at the plan.
        batches: inputs from which the statistics of each plan are computed; none where there is no BatchNorm.
        seed: of the random numbers that the score may draw, the same for all plans.

    Attributes:
        plain: seconds that plain forwards of all batches and one call of the score took at full width.
    """

    def __init__(self, net: nn.Module, score: Score, batches: Sequence[Any], *, seed: int = 0) -> None:
        check_is(Callable, "a function of the network", score=score)
        self.net, self.score, self.batches, self.seed = net, score, batches, seed
        self.slimming = slimming_of(net)
        tracking = [part.module for part in self.slimming.parts if tracks(part.module)]
        self.norms = tracking if self.slimming.norm.has_statistics_of_widths else []
        if self.norms and not batches:
            raise ValueError(
                f"this {type(net).__name__} has BatchNorm, whose statistics each plan needs of its own; pass "
                "calibrate=[...], inputs for training, without labels"
            )
        self.reuse = self._find_reuse()
        self.plain = 0.0

    def scores(self, plans: Sequence[Plan]) -> Iterator[tuple[Plan, float]]:
        """Each plan with its score, in the order that is fastest."""
        if self.reuse is not None:
            left = dict.fromkeys(plans)
            known: Statistics = {}
            try:
                for plan in self.reuse.schedule(plans):
                    score, known = self._run_on(plan, self.reuse, known)
                    del left[plan]
                    yield plan, score
            except NotRepeated:  # nothing can be shared
                self.reuse, plans = None, list(left)
            else:
                return
        for plan in plans:
            yield plan, self._run(plan)

    def in_order(self, plans: Sequence[Plan]) -> Sequence[Plan]:
        """The order that is fastest."""
        return plans if self.reuse is None else self.reuse.chain.in_order(plans)

    def time_plain(self) -> None:
        """Measure `plain`."""
        begin = time.perf_counter()
        with self._at(self.slimming.layout.full):
            for batch in self.batches:
                run_on(self.net, arguments(self.net, batch))
            self._scored(self.slimming.layout.full)
        self.plain = time.perf_counter() - begin

    def _find_reuse(self) -> Reuse | None:
        x = self.batches[0] if self.batches else None
        x = x[0] if isinstance(x, tuple) and len(x) == 1 else x
        if not isinstance(x, Tensor):
            return None
        full = self.slimming.layout.full
        with self._at(full):
            chain = usable_chain(self.net, self.slimming.net(), x)
        return None if chain is None else Reuse(chain)

    def _run(self, plan: Plan) -> float:
        with self._at(plan):
            if self.norms:
                calibrate(self.net, self.batches, [WidthPlan(plan)])
            return self._scored(plan)

    def _run_on(self, plan: Plan, reuse: Reuse, before: Statistics) -> tuple[float, Statistics]:
        """The same, on what the plan shares with the one before it; also the statistics that it has."""
        with self._at(plan):
            if self.norms:
                shared = {norm: before[norm] for norm in self.norms if norm in reuse.reused}
                for norm, (mean, variance) in shared.items():
                    write_statistics(norm, self._below_full(plan), mean, variance)
                with reuse.phase("calibration"):
                    calibrate(self.net, self.batches, [WidthPlan(plan)])
                for norm, (mean, variance) in shared.items():  # a norm in the chain itself was taken for one that ran
                    write_statistics(norm, self._below_full(plan), mean, variance)
            with reuse.phase("scoring"):
                score = self._scored(plan)
            return score, {norm: self._statistics(norm, plan) for norm in self.norms}

    def _statistics(self, norm: nn.Module, plan: Plan) -> tuple[Tensor, Tensor]:
        mean, variance = (norm._buffers[name] for name in self._names(plan))
        assert mean is not None and variance is not None
        return mean, variance

    def _scored(self, plan: Plan) -> float:
        with own_random_numbers(self.seed):
            value = float(self.score(self.net))
        if not math.isfinite(value):
            raise ValueError(
                f"the score of {WidthPlan(plan)} is {value}, which cannot be compared; is the loss of the full network "
                "finite, and are its weights?"
            )
        return value

    @contextmanager
    def _at(self, plan: Plan) -> Iterator[None]:
        """The network in eval mode at a plan; statistics that this gives it are taken away again."""
        places = [(norm, name) for norm in self.norms for name in self._names(plan)]
        known = {place: buffer.clone() for place in places if (buffer := place[0]._buffers.get(place[1])) is not None}
        labels = dict(self.slimming.labels)
        try:
            with at_width(self.net, WidthPlan(plan)), in_eval(self.net), torch.no_grad():
                yield
        finally:
            for norm, name in places:
                there = norm._buffers.get(name)
                if there is not None and (norm, name) in known:
                    there.copy_(known[norm, name])
                else:
                    drop_buffer(norm, name)
            self.slimming.labels = labels
            if self.norms:
                self.slimming.forget(plan)

    def _below_full(self, plan: Plan) -> Plan | None:
        return None if plan == self.slimming.layout.full else plan

    def _names(self, plan: Plan) -> tuple[str, ...]:
        return STATISTICS if self._below_full(plan) is None else tuple(str(OfWidth(key, plan)) for key in STATISTICS)
