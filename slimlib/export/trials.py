"""What the network in torch gives on several inputs, which every exported file must give, too."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimlib.core.structures import tensors
from slimlib.core.tolerance import Tolerance, check_tells
from slimlib.export.inputs import Inputs, shapes


@dataclass(frozen=True)
class Trial:
    """Arguments, what forward returned for them, and how far others may be off (see slimlib.serving.agreement)."""

    args: tuple[Any, ...]
    tree: Any
    tolerance: Tolerance

    def check(self, name: str, got: Sequence[Any]) -> None:
        """Raise RuntimeError unless a file of this name gave the same tensors."""
        expected = tensors(self.tree)
        for a, b in zip(expected, got, strict=True):
            if a.dtype != b.dtype or self.tolerance.differ(a, b):
                off = (
                    f"by {(a.double() - b.double()).abs().max():.2g}"
                    if a.shape == b.shape
                    else f"in shape: {list(b.shape)}"
                )
                raise RuntimeError(
                    f"{name} returns different outputs from torch for inputs {shapes(self.args)}: they differ {off}. "
                    "Does the forward draw random numbers in eval mode, or keep state between calls?"
                )


def run_trials(net: nn.Module, inputs: Inputs) -> list[Trial]:
    """Run a dense network in torch on everything that its files are to be checked with.

    Raises:
        ValueError: it does not run on the example, with another batch, or on other sizes; or it returns no tensors,
            or no finite number.
    """
    trials = []
    for number, args in enumerate(inputs.to_check()):
        try:
            with torch.no_grad():
                tree = net(*copy.deepcopy(args))
        except Exception as error:  # whatever a forward raises on an input that it cannot take
            raise ValueError(_does_not_fit(net, inputs, number, args, error)) from error
        trials.append(Trial(args, tree, Tolerance.of(net)))
    strange = [type(leaf).__name__ for leaf in tree_leaves(trials[0].tree) if not isinstance(leaf, Tensor | None)]
    if strange or not tensors(trials[0].tree):
        raise ValueError(f"{type(net).__name__} returns {', '.join(strange) or 'nothing'}; export needs tensors")
    check_tells(tensors(trials[0].tree))
    return trials


def _does_not_fit(net: nn.Module, inputs: Inputs, number: int, args: tuple[Any, ...], error: Exception) -> str:
    name, reason = type(net).__name__, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if number == 0:
        return f"the example {inputs.shapes} does not fit {name}: {reason}"
    if number == 1:
        return f"{name} runs on the example {inputs.shapes}, and not with another batch, {shapes(args)}: {reason}"
    sizes = ", ".join(inputs.dynamic.values())
    return f"{name} does not run with other sizes ({sizes}), {shapes(args)}: {reason}. Leave them out of dynamic"
