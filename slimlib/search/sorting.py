"""Sort the channels of a network, so that the leading ones matter most, without changing what it computes."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slimlib.convert import check_names
from slimlib.core.arguments import arguments, run_on
from slimlib.core.layers import SLIM_LAYERS
from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.setting import in_eval, slimming_of
from slimlib.core.slimming import Slimming
from slimlib.core.structures import tensors
from slimlib.core.width import Width, check_is
from slimlib.search.permuting import Companions, Order, check_state, interchangeable, keeps_units, permute, permuted
from slimlib.search.scores import ChannelScores
from slimlib.search.weights import at_full_width
from slimlib.training.rule import Rule

Averages = AbstractContextManager[Sequence[Mapping[nn.Parameter, Tensor]]]


def sort_channels(
    net: nn.Module,
    scores: ChannelScores,
    *,
    bands: Sequence[Width] = (),
    keep: Sequence[str] = (),
    optimizer: Optimizer | Sequence[Optimizer] = (),
    rule: Rule | None = None,
    example: Any = None,
) -> ChannelScores:
    """Sort the units of every group by score, highest first, in all layers where they occur.

    At full width the outputs do not change, up to rounding. Narrow widths then have other channels: their calibrated
    statistics are dropped, and switches start again from the shared BatchNorm.

    Args:
        net: a slimmable network; it is changed in place.
        scores: from `channel_scores` or `learned_ranking`.
        bands: widths that keep the units they have, for a network that is trained to be slimmed: units are sorted
            between one of these widths and the next. The outputs of these widths do not change, and they keep their
            statistics.
        keep: names of layers whose units stay in order.
        optimizer: one or several; their state is sorted like the parameters.
        rule: its averages of the network (`AveragedTeacher`) are sorted as well.
        example: an input, or a tuple of arguments: the outputs on it are compared before and after. Required for a
            layout that was given to `convert` by hand.

    Returns:
        The scores in the new order.

    Raises:
        ValueError: scores of another network; a group whose place decides what its units compute (only an `example`
            can tell); a layer written by hand, which does not know who reads it; state of the optimizer that is not
            shaped like its parameter. The network is then as before.
        TypeError: an argument is of another type than here.

    Warns:
        UserWarning: the network has been trained at narrow widths, and no bands keep the channels of the narrowest.

    Source: Cai et al. 2020 (Once for All), sorting by importance; Chin et al. 2020 (LeGR).
    """
    slimming = slimming_of(net)
    layout = slimming.layout
    check_is(ChannelScores, "what channel_scores returned", scores=scores)
    optimizers = optimizer if isinstance(optimizer, Sequence) else [] if optimizer is None else [optimizer]
    for one in optimizers:
        check_is(Optimizer, "a torch optimizer, or a list of them", optimizer=one)
    check_is(Rule | None, "a rule, such as slimlib.Sandwich", rule=rule)
    check_is(Iterable, "a list of widths", bands=bands)
    check_names("keep", keep)
    scores.check(layout)
    _refuse_unknown_readers(slimming, example)
    for one in optimizers:
        check_state(slimming, one)
    order = _order(slimming, scores, bands, _kept_groups(slimming, keep))
    lent: Averages = nullcontext(()) if rule is None else rule.averages_of(net)
    with lent as averages:
        whole: Any = slimming.net()
        of_policy = [whole.in_targets()] if hasattr(whole, "in_targets") else []
        companions = Companions(optimizers, [*averages, *of_policy])
        if example is None:
            permute(slimming, order, companions)
        else:
            _permute_if_equal(net, slimming, order, companions, example)
    _warn_of_training(slimming, order)
    return ChannelScores(scores.by, scores.groups, tuple(v[o] for v, o in zip(scores.values, order, strict=True)))


def _order(slimming: Slimming, scores: ChannelScores, bands: Sequence[Width], kept: set[int]) -> Order:
    """Of each group, which unit comes to each place."""
    for width in bands:
        slimming.check(width)
    borders = torch.tensor([slimming.channels_at(width) for width in bands]).view(len(bands), len(scores.values))
    order = []
    for index, (values, kind) in enumerate(zip(scores.values, interchangeable(slimming.layout), strict=True)):
        units = torch.arange(len(values))
        if index in kept:
            order.append(units)
            continue
        band = (units >= borders[:, index, None]).sum(0)
        cell = band * len(units) + kind.cpu()
        best_first = torch.argsort(values.cpu(), descending=True, stable=True)
        places = torch.argsort(cell, stable=True)
        taking = best_first[torch.argsort(cell[best_first], stable=True)]
        found = torch.empty_like(units)
        found[places] = taking
        order.append(found)
    return order


def _kept_groups(slimming: Slimming, keep: Sequence[str]) -> set[int]:
    group_of = {layer: g for g, group in enumerate(slimming.layout.groups) for layer in group.layers}
    for name in keep:
        if name not in group_of:
            near = difflib.get_close_matches(name, list(group_of), n=1, cutoff=0.0)
            raise ValueError(f"keep={name!r} names no layer that makes channels; the nearest is {near[0]!r}")
    return {group_of[name] for name in keep}


def _refuse_unknown_readers(slimming: Slimming, example: Any) -> None:
    """Raise ValueError where the layout does not tell all places in which a unit occurs."""
    layers: Any = tuple(SLIM_LAYERS.values())
    for name, module in slimming.net().named_modules():
        if isinstance(module, layers) and module.name_in_network is None:
            raise ValueError(
                f"layer '{name}' was written by hand and reads its input channels off what arrives, so that nothing "
                "tells who reads which channel. Call slimlib.convert(net, example) before the first set_width"
            )
    if not slimming.layout.followed and example is None:
        raise ValueError(
            "the layout of this network was given by hand, and may have layers where the place of a channel matters; "
            "pass example=..., an input on which the outputs are compared before and after"
        )


def _permute_if_equal(net: nn.Module, slimming: Slimming, order: Order, companions: Companions, example: Any) -> None:
    """Permute where the outputs stay; else name the groups that change them, and leave everything as it was."""
    args = arguments(net, example)
    before = _outputs(net, slimming, args)

    def changes(trial: Order) -> bool:
        with permuted(slimming, trial):
            return not _same(before, _outputs(net, slimming, args))

    if changes(order):
        stay = [torch.arange(len(o)) for o in order]
        alone = [[*stay[:g], o, *stay[g + 1 :]] for g, o in enumerate(order)]
        names = [group.name for group in slimming.layout.groups]
        moved = [name for name, trial in zip(names, alone, strict=True) if changes(trial)] or names
        raise ValueError(
            f"units of {', '.join(map(repr, moved))} cannot change places: what they compute depends on where they "
            f"are (a shuffle, say, or a constant for each channel). Leave them in order with keep={moved}"
        )
    permute(slimming, order, companions)


def _outputs(net: nn.Module, slimming: Slimming, args: tuple[Any, ...]) -> list[Tensor]:
    """What the full network computes in eval mode."""
    with own_random_numbers(), at_full_width(slimming), in_eval(net), torch.no_grad():
        torch.manual_seed(0)  # a policy draws its actions
        return [leaf for leaf in tensors(run_on(net, args)) if leaf.is_floating_point()]


def _same(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    """Equal but for what another order of adding up does."""
    return all(
        bool((a - b).abs().max() <= torch.finfo(a.dtype).eps ** 0.5 * a.abs().max())
        for a, b in zip(before, after, strict=True)
        if a.numel()
    )


def _warn_of_training(slimming: Slimming, order: Order) -> None:
    trained = slimming.trained
    if trained is None or keeps_units(order, trained):
        return
    slimming.trained = None  # what its narrow widths have now, they were not trained with
    warnings.warn(
        f"this network has been trained at narrower widths, down to the channels {list(trained)}, and their channels "
        "are others now: only the full width computes what it did. Sort before such training, or within bands: "
        "sort_channels(net, scores, bands=[0.25, 0.5, 0.75]) keeps the channels of these widths",
        stacklevel=3,
    )
