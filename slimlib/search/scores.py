"""How much each channel of a network matters, by weights, BatchNorm scales, consumers, or gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimlib.core.arguments import check_batches
from slimlib.core.layout import Layout
from slimlib.core.setting import in_eval, slimming_of
from slimlib.core.slimming import Slimming
from slimlib.core.width import check_is
from slimlib.search.weights import Weight, at_full_width, makers, per_channel, readers, sum_over_units

Loss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, eq=False)
class ChannelScores:
    """How much every unit of every group of a network matters: the higher, the more.

    by: what the scores are.
    groups: name of each group, in the order of `net.slim`.
    values: scores [units] of each group.
    """

    by: str
    groups: tuple[str, ...]
    values: tuple[Tensor, ...]

    def check(self, layout: Layout) -> None:
        """Raise ValueError unless these are finite scores of the groups of a layout."""
        own = [(group.name, group.units) for group in layout.groups]
        given = [(name, len(values)) for name, values in zip(self.groups, self.values, strict=True)]
        if len(own) != len(given):
            raise ValueError(f"the scores are of another network: {len(given)} groups there, {len(own)} here")
        for here, there in zip(own, given, strict=True):
            if here != there:
                raise ValueError(
                    f"the scores are of another network: '{there[0]}' with {there[1]} units there, "
                    f"'{here[0]}' with {here[1]} here. Call slimlib.channel_scores on this one"
                )
        for name, values in zip(self.groups, self.values, strict=True):
            if not bool(values.isfinite().all()):
                raise ValueError(f"the scores of '{name}' by {self.by!r} are not finite; are its weights?")


def channel_scores(
    net: nn.Module, by: str = "l2", *, batches: Iterable[Any] | None = None, loss: Loss | None = None
) -> ChannelScores:
    """Score the channels of a slimmable network, at its full width.

    Args:
        net: a slimmable network; it is not changed.
        by: what makes a channel matter, added up over the layers of its group:
            "l2", the squared norm of the weights that make it (depthwise ones follow, and do not count);
            "batchnorm", the size of the scale that BatchNorm gives it;
            "consumers", the L1 norm of the weights that read it;
            "taylor", how much the loss would change without it, to first order: the square of the sum of weight times
            gradient, averaged over batches.
        batches: for "taylor": what `loss` is given, one after another.
        loss: for "taylor": (net, batch) -> a scalar. It is called in eval mode.

    Raises:
        ValueError: there is no such score, a group has none (no BatchNorm follows, say), "taylor" lacks its batches or
            loss, or a score is not finite.

    Source: Chin et al. 2020 (LeGR), norm; Liu et al. 2017 (Network Slimming), BatchNorm; Cai et al. 2020 (Once for
    All), consumers; Molchanov et al. 2019, eq. 8, Taylor.
    """
    if by not in KINDS:
        raise ValueError(f"score {by!r} does not exist; choose one of {', '.join(KINDS)}")
    if {batches is None, loss is None} != {by != "taylor"}:
        raise ValueError("by='taylor' needs batches=... and loss=..., a function (net, batch) -> scalar; no other does")
    slimming = slimming_of(net)
    groups = slimming.layout.groups
    if by == "taylor":
        assert batches is not None and loss is not None
        check_batches("batches", batches)
        check_is(Callable, "a function (net, batch) -> scalar", loss=loss)
        with _learning(net), torch.enable_grad(), at_full_width(slimming):
            values = _taylor(slimming, net, batches, loss)
    else:
        with at_full_width(slimming):
            values = OF_WEIGHTS[by](slimming)
    for group, found in zip(groups, values, strict=True):
        if found is None:
            raise ValueError(f"'{group.name}' has no score by {by!r}: {MISSING[by]}; try another score")
    scores = ChannelScores(by, tuple(group.name for group in groups), tuple(v for v in values if v is not None))
    scores.check(slimming.layout)
    return scores


Values = Sequence[Tensor | None]
MISSING = {
    "l2": "no weight makes its channels",
    "batchnorm": "no BatchNorm with a scale follows it",
    "consumers": "no weight reads its channels",
    "taylor": "no weight makes its channels",
}


def _l2(slimming: Slimming) -> Values:
    return [_total(slimming, g, makers(slimming, g), torch.square) for g in range(len(slimming.layout.groups))]


def _consumers(slimming: Slimming) -> Values:
    return [_total(slimming, g, readers(slimming, g), torch.abs) for g in range(len(slimming.layout.groups))]


def _total(
    slimming: Slimming, group: int, weights: Sequence[Weight], size: Callable[[Tensor], Tensor]
) -> Tensor | None:
    units = slimming.layout.groups[group].units
    found = [w.per_unit(size(w.value.detach().double()), group, units) for w in weights]
    return torch.stack(found).sum(0) if found else None


def _batchnorm(slimming: Slimming) -> Values:
    totals: dict[int, Tensor] = {}
    for name, module in slimming.net().named_modules():
        scale = module._parameters.get("weight") if isinstance(module, _BatchNorm) else None
        axis = slimming.layout.axes.get(f"{name}.weight", {}).get(0)
        if scale is None or axis is None:
            continue
        for group in {s.group for s in axis if s.group is not None}:
            units = slimming.layout.groups[group].units
            found = sum_over_units(per_channel(scale.detach().abs(), 0), axis, group, units)
            totals[group] = totals.get(group, torch.zeros(units, dtype=torch.double)) + found
    return [totals.get(group) for group in range(len(slimming.layout.groups))]


@contextmanager
def _learning(net: nn.Module) -> Iterator[None]:
    """Within, all weights require gradients: a frozen layer without any would seem not to matter."""
    frozen = [p for p in net.parameters() if not p.requires_grad and p.is_floating_point()]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _taylor(slimming: Slimming, net: nn.Module, batches: Iterable[Any], loss: Loss) -> Values:
    """Mean over batches of the squared first-order change of the loss, added up over the weights that make a unit."""
    groups = slimming.layout.groups
    made = [makers(slimming, group) for group in range(len(groups))]
    parameters = list({id(p): p for weights in made for w in weights for p in w.parameters if p.requires_grad}.values())
    found: list[list[Tensor]] = []  # of each batch, the squared changes of every group
    # The same scores each time, also on a GPU: what was searched in the sorted network is found again by its weights.
    same = torch.backends.cudnn.flags(deterministic=True, allow_tf32=torch.backends.cudnn.allow_tf32)
    with same, in_eval(net), torch.enable_grad():
        for batch in batches:
            gradients = torch.autograd.grad(loss(net, batch), parameters, allow_unused=True)
            known = {id(p): g for p, g in zip(parameters, gradients, strict=True) if g is not None}
            found.append([_changes(weights, g, groups[g].units, known) for g, weights in enumerate(made)])
    if not found:
        raise ValueError("by='taylor' got no batch")
    means = [torch.stack(of_group).mean(0) for of_group in zip(*found, strict=True)]
    return [mean if weights else None for mean, weights in zip(means, made, strict=True)]


def _changes(weights: Sequence[Weight], group: int, units: int, gradients: Mapping[int, Tensor]) -> Tensor:
    total = torch.zeros(units, dtype=torch.double)
    for weight in weights:
        held = [p for p in weight.parameters if id(p) in gradients]
        parts = [weight.per_unit(p.detach() * gradients[id(p)], group, units) for p in held]
        total += torch.stack(parts).sum(0).square() if parts else 0
    return total


OF_WEIGHTS = {"l2": _l2, "batchnorm": _batchnorm, "consumers": _consumers}
KINDS = (*OF_WEIGHTS, "taylor")
