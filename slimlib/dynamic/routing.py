"""`route`: each sample of a batch at a width of its own, computed on slices, group by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimlib.core.arguments import arguments
from slimlib.core.norms.batchnorm import SlimBatchNorm
from slimlib.core.setting import at_width, set_width
from slimlib.core.structures import tensors
from slimlib.core.width import Width
from slimlib.dynamic.batches import check_batched, joined, samples_in, take
from slimlib.dynamic.group_times import GroupTimes
from slimlib.dynamic.grouping import Group, check_smallest, fastest, groups_of, widths_of_samples, without_small

SmallestGroup = int | Literal["measured"]
_NORMS: WeakKeyDictionary[nn.Module, list[tuple[str, nn.Module]]] = WeakKeyDictionary()


def route(net: nn.Module, x: Any, widths: Sequence[Width] | Tensor, *, smallest_group: SmallestGroup = 1) -> Any:
    """Compute each sample of a batch at its own width.

    Samples of equal channel numbers run together on slices; the outputs return in the order of the batch. Up to
    rounding they are those of each sample alone. Gradients flow to the weights and to `x`. A frozen network is fastest.

    Args:
        net: a slimmable or frozen network; it keeps the width that is set. BatchNorm must be in eval mode, with
            statistics for each width (`calibrate`), as in training it would normalise each group by itself.
        x: its input: a tensor [N, ...], a tuple of its arguments, or a mapping of them by name, of any structure of
            tensors [N, ...]. A tensor without dimensions is given to every group.
        widths: of each sample: N numbers or plans, or a tensor or array [N] of numbers.
        smallest_group: a group of fewer samples joins the next wider one, at whose width it then runs. 1: each sample
            runs at its own width. "measured": groups are joined where that is faster on this device; what a group
            takes is measured when it is first needed, for each shape of input, which takes some passes.

    Returns:
        What `net` returns, of any structure of tensors [N, ...], for the whole batch.

    Raises:
        ValueError: not one width for each sample, a width that is not allowed, an input or output that has no batch,
            or BatchNorm in training mode.
        UncalibratedWidth: a width has no BatchNorm statistics.
    """
    args = arguments(net, x)
    samples = samples_in(args)
    asked = widths_of_samples(net, widths, samples)
    return run_groups(net, args, plan_groups(net, args, asked, smallest_group))


def plan_groups(
    net: nn.Module, args: tuple[Any, ...], widths: Sequence[Width], smallest_group: SmallestGroup
) -> list[Group]:
    """The groups that run, for one width a sample."""
    check_smallest(smallest_group)
    check_mode(net)
    groups = groups_of(net, widths)
    if len(groups) < 2 or smallest_group == 1:
        return groups
    if smallest_group == "measured":
        times = GroupTimes(net, args, [group.width for group in groups])
        return fastest(groups, times.among_others, times.alone)
    return without_small(groups, smallest_group)


def run_groups(net: nn.Module, args: tuple[Any, ...], groups: Sequence[Group]) -> Any:
    """The outputs of a batch whose groups run one after another, in the order of the batch."""
    if not groups:
        return net(*args)
    with at_width(net, groups[0].width):
        if len(groups) == 1:
            set_width(net, groups[0].width)
            output = net(*args)
            check_batched(output, len(groups[0].samples))
            return output
        device = tensors(args)[0].device
        order = torch.tensor([sample for group in groups for sample in group.samples], device=device)
        sorted_args = take(args, order)
        outputs, begin = [], 0
        for group in groups:
            end = begin + len(group.samples)
            set_width(net, group.width)
            outputs.append(net(*take(sorted_args, slice(begin, end))))
            check_batched(outputs[-1], end - begin)
            begin = end
    return joined(outputs, order)


def check_mode(net: nn.Module) -> None:
    """Raise ValueError where BatchNorm would normalise each group of samples by that group's own statistics."""
    norms = _NORMS.get(net)
    if norms is None:  # a walk over all modules takes longer than a small network
        norms = _NORMS[net] = [(n, m) for n, m in net.named_modules() if isinstance(m, _BatchNorm)]
    for name, module in norms:
        without = getattr(module, "running_mean", None) is None and not isinstance(module, SlimBatchNorm)
        if module.training or without:
            mend = "build it with track_running_stats=True" if without else "call net.eval(), or eval() of its norms"
            raise ValueError(
                f"layer '{name}' ({type(module).__name__}) normalises by the batch, so that the output of a sample "
                f"would depend on the others of its group; {mend}"
            )
