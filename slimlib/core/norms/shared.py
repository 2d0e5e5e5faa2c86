"""Shared BatchNorm: one affine and one set of statistics for all widths; what goes wrong without the others."""

from __future__ import annotations

from dataclasses import dataclass

from slimlib.core.norms.norm import Norm


@dataclass(frozen=True)
class Shared(Norm):
    """The statistics are a mixture of those of all widths that are trained, which fits none of them.

    Source: Yu et al. 2019 (Slimmable Neural Networks), sec. 3.2, the naive training.
    """

    name = "shared"
    has_statistics_of_widths = False
