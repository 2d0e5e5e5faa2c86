"""How hard a patch is to upscale, and a table of what each width makes of patches as hard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.sr.metrics import STUDIO_LUMA

BINS = 30


def difficulty(patches: Tensor) -> Tensor:
    """The mean absolute Laplacian of the luma, [P, 3, h, w] in [0, 1] -> [P].

    Source: Chen et al. 2022 (ARM), sec. 3.2: edges tell which patches are hard.
    """
    luma = (patches * patches.new_tensor(STUDIO_LUMA)[:, None, None]).sum(1, keepdim=True)
    kernel = luma.new_tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return F.conv2d(luma, kernel).abs().mean((1, 2, 3))


@dataclass(frozen=True)
class ErrorTable:
    """Expected squared error of each width over difficulty.

    Attributes:
        edges: [bins - 1], between the bins, ascending; errors: [widths, bins].
    """

    edges: Tensor
    errors: Tensor

    @classmethod
    def fitted(cls, difficulties: Tensor, errors: Tensor, *, bins: int = BINS) -> ErrorTable:
        """From held-out patches: [P], and the error of each width on each, [widths, P]. Bins hold equally many."""
        bins = max(1, min(bins, len(difficulties) // 8))
        edges = difficulties.quantile(torch.linspace(0, 1, bins + 1, dtype=difficulties.dtype)[1:-1]).unique()
        places = torch.bucketize(difficulties, edges)
        means = torch.zeros(len(errors), len(edges) + 1, dtype=errors.dtype).index_add_(1, places, errors)
        counts = torch.bincount(places, minlength=len(edges) + 1)
        return cls(edges, means / counts.clamp(min=1))

    def expected(self, difficulties: Tensor) -> Tensor:
        """[P] -> [widths, P]."""
        found = torch.bucketize(difficulties.cpu().double(), self.edges.double())
        return self.errors[:, found]


def cheapest(errors: Tensor, costs: Sequence[float], price: float) -> Tensor:
    """For each patch the width that is worth its price, [widths, P] -> [P].

    An error counts as a part of that of the whole image at the last width, the widest, so that a price means the same
    loss in dB for every image. costs: of a patch at each width, as shares of the image at full width.
    """
    relative = errors / errors[-1].sum().clamp(min=1e-12)
    return (relative + price * torch.tensor(costs, dtype=errors.dtype)[:, None]).argmin(0)
