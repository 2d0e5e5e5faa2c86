"""What recipes say of choosing a width for each input."""

from __future__ import annotations

from typing import Literal

from slimlib.dynamic.confidence import CONFIDENCES
from tasks.settings import Settings, setting, unknown

DECIDERS = (*CONFIDENCES, "uniform", "searched", "random", "gate", "table", "oracle")
"""Cascades by a confidence, one width or one searched plan for all, one of two widths by chance, a trained gate, a
table of difficulty, and what knows the answers."""
WITHOUT_COST = ("oracle",)
"""It takes the narrowest right width where no cost is given."""


class Deciding(Settings):
    """The keys of a recipe that decide how a width is chosen for each input."""

    per_input: str | None = setting(None, f"a width is chosen for each input, by: {', '.join(DECIDERS)}")
    costs: tuple[float, ...] | None = setting(
        None, "mean costs of an input, as shares of the full width's multiply-adds", strict=False, examples=[[0.4, 0.6]]
    )
    stem: Literal["full"] | None = setting(
        None, "full: what runs before the gate keeps all its channels, as in published supernets; null: it slims"
    )

    def check_deciding(self) -> None:
        """Raise ValueError where a key is unknown, or has no meaning without the other."""
        if self.per_input is None:
            for key in ("costs", "stem"):
                if getattr(self, key) is not None:
                    raise ValueError(f"'{key}' has no meaning without per_input: how a width is chosen for each input")
            return
        if self.per_input not in DECIDERS:
            raise unknown("per_input", self.per_input, DECIDERS)
        if self.costs is None and self.per_input not in WITHOUT_COST:
            raise ValueError(f"per_input: {self.per_input} needs mean costs, for example costs: [0.4, 0.6]")
        if not all(0 < cost <= 1 for cost in self.costs or ()) or len(set(self.costs or ())) < len(self.costs or ()):
            raise ValueError(f"costs={list(self.costs or ())} must be shares in (0, 1], each once")
