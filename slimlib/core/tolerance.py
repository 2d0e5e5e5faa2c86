"""Whether two outputs are the same but for rounding: the one rule by which outputs are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROUNDINGS = 64  # that outputs may be off, in types in which they are more than the usual tolerance


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may be off.

    Attributes:
        relative: to each number.
        absolute: as a part of the largest number that is finite.
        whole: whether whole numbers must be equal; else they are not compared, as the place of the better one of two
            scores that are equal but for rounding may be another.
    """

    relative: float = 1e-3
    absolute: float = 1e-4
    whole: bool = False

    @staticmethod
    def of(net: nn.Module) -> Tolerance:
        """For a network that computes in the types of its parameters."""
        coarsest = max([0.0, *(torch.finfo(p.dtype).eps for p in net.parameters() if p.is_floating_point())])
        usual = Tolerance()
        return Tolerance(max(usual.relative, ROUNDINGS * coarsest), max(usual.absolute, ROUNDINGS * coarsest))

    def differ(self, expected: Tensor, got: Tensor) -> bool:
        """Whether outputs are further off, or of other shapes. What is not a number must be none in both."""
        if expected.shape != got.shape:
            return True
        if not (expected.is_floating_point() or expected.is_complex()):
            return self.whole and not torch.equal(expected, got)
        if expected.numel() == 0:
            return False
        largest = float(expected.abs().nan_to_num(0.0, 0.0, 0.0).max())
        return not torch.allclose(got, expected, self.relative, self.absolute * largest, equal_nan=True)


def tell(outputs: Sequence[Tensor]) -> bool:
    """Whether outputs hold a number that could differ, if they hold any: what is not a number equals what is none."""
    floating = [x for x in outputs if (x.is_floating_point() or x.is_complex()) and x.numel()]
    return not floating or any(bool(x.isfinite().any()) for x in floating)


def check_tells(outputs: Sequence[Tensor]) -> None:
    """Raise ValueError where outputs hold no number that could differ."""
    if not tell(outputs):
        raise ValueError("the network returns no finite number on the example; give one on which it does")
