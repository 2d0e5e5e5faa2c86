"""Plans from a ranking of all channels: each group keeps those above one threshold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slimlib.search.space import Space


def cut(space: Space, values: Sequence[Tensor], budget: float) -> Tensor:
    """The plan of the lowest threshold that is within a budget, as levels [groups]; the narrowest where none is.

    Plans of higher thresholds are part of those of lower ones.

    Args:
        values: scores [units] of each group, that compare between groups.

    Source: Chin et al. 2020 (LeGR), sec. 3.1.
    """
    thresholds = torch.cat(list(values)).unique()
    low, high = 0, len(thresholds) - 1
    while low < high:
        middle = (low + high) // 2
        if float(space.cost(_above(space, values, thresholds[middle])[None])[0]) <= budget:
            high = middle
        else:
            low = middle + 1
    return _above(space, values, thresholds[low])


def _above(space: Space, values: Sequence[Tensor], threshold: Tensor) -> Tensor:
    return space.nearest(torch.stack([(of_group >= threshold).sum() for of_group in values]))
