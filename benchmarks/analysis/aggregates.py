"""The interquartile mean over seeds and its interval, which readers of reinforcement learning results expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_SEEDS = 5
"""With fewer seeds than these there is no middle half worth the name: show every seed."""

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Aggregate:
    """An interquartile mean and the two ends of its interval."""

    value: float
    low: float
    high: float

    def text(self, decimals: int) -> str:
        """For reading: `497.1 [480.2, 500.0]`."""
        return f"{self.value:.{decimals}f} [{self.low:.{decimals}f}, {self.high:.{decimals}f}]"


def interquartile_mean(scores: Sequence[Sequence[float]]) -> Aggregate:
    """The mean of the middle half of all scores, with the percentile interval of a stratified bootstrap.

    A quarter of the scores, rounded down, is left out at either end. The same scores give the same interval.

    Args:
        scores: of each evaluation set, on one scale, those of its seeds. Seeds are drawn anew within each set.

    Raises:
        ValueError: a set has fewer than `LEAST_SEEDS` seeds.

    Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", sec. 4.
    """
    fewest = min(map(len, scores), default=0)
    if fewest < LEAST_SEEDS:
        raise ValueError(f"an interquartile mean needs {LEAST_SEEDS} seeds, there are {fewest}; show each of them")
    strata = [np.asarray(of_set, dtype=float) for of_set in scores]
    rng = np.random.default_rng(0)
    drawn = [of_set[rng.integers(0, len(of_set), (RESAMPLES, len(of_set)))] for of_set in strata]
    return _with_interval(_of_all_sets(*strata), _of_all_sets(*drawn))


def ratio_of_means(values: Sequence[float], others: Sequence[float]) -> Aggregate:
    """The mean of values over that of others, with the percentile interval of a bootstrap over the pairs.

    Args:
        values: one a seed.
        others: of the same seeds, in the same order.

    Raises:
        ValueError: there are fewer than `LEAST_SEEDS` seeds.
    """
    if len(values) < LEAST_SEEDS:
        raise ValueError(f"an interval needs {LEAST_SEEDS} seeds, there are {len(values)}; show each of them")
    pairs = np.asarray([values, others], dtype=float)
    drawn = pairs[:, np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))].mean(-1)
    mean, other = pairs.mean(-1)
    return _with_interval(mean / other, drawn[0] / drawn[1])


def middle_mean(scores: np.ndarray, *, axis: int) -> np.ndarray:  # [..., seeds] -> [...]
    """The mean of the middle half along an axis; as scipy.stats.trim_mean, which takes a second to import."""
    count = scores.shape[axis]
    cut = count // 4
    parted = np.moveaxis(np.partition(scores, (cut, count - cut - 1), axis), axis, -1)
    return np.asarray(parted[..., cut : count - cut].mean(-1))


def _with_interval(value: np.ndarray, resampled: np.ndarray) -> Aggregate:
    outside, ordered = (1 - CONFIDENCE) / 2, np.sort(resampled)
    return Aggregate(float(value), _quantile(ordered, outside), _quantile(ordered, 1 - outside))


def _quantile(ordered: np.ndarray, share: float) -> float:
    """Linear between the two nearest, as scipy has it; numpy's own differs in the last digit."""
    place = share * len(ordered) + (1 - share)
    below, part = int(place), place % 1
    return float((1 - part) * ordered[below - 1] + part * ordered[min(below, len(ordered) - 1)])


def _of_all_sets(*strata: np.ndarray, axis: int = -1) -> np.ndarray:
    return middle_mean(np.concatenate(strata, axis=axis), axis=axis)
