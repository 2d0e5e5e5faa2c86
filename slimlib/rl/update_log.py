"""What an update tells of itself in the log of stable-baselines3."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor


class UpdateLog:
    """Means of what the steps of an update tell of themselves, for the log."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._values[name].append(value.item())

    def write_to(self, logger: Any, names: Mapping[str, str]) -> None:
        """Record the means of what was added, under the names that stable-baselines3 gives them."""
        for name, shown in names.items():
            if name in self._values:
                logger.record(f"train/{shown}", np.mean(self._values[name]))
