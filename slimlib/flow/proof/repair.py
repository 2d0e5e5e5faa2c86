"""What to do when the sliced network fails: propose numbers, read a view otherwise, or keep full what entered there."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from slimlib.flow.operations.movement import is_split_axis, readings
from slimlib.flow.proof.check import END, OTHER_NUMBERS, Failure, Proof
from slimlib.flow.proof.followed import Followed
from slimlib.flow.proof.proposals import propose, sizes_that_stay
from slimlib.flow.steps import (
    VIEWS,
    Choices,
    FlowError,
    Kept,
    Shapes,
    Site,
    Step,
    alike,
    class_or_name,
    is_inside,
    place_of,
    shapes_of,
    upwards,
)

SPLITS = {"split", "chunk"}
DIVIDES = {"slice", "narrow", "split", "split_with_sizes", "chunk"}
FEW = 2  # sizes of modules of a class in which the same fails, after which it is taken to fail in all
CUTS = {"slice", "narrow", "select", "index", "index_select", "gather"}


def repair(net: nn.Module, proof: Proof, failure: Failure, choices: Choices) -> list[Choices]:
    """What the failure teaches, added to `choices`; several where only their outcome tells which is best.

    Raises:
        FlowError: nothing is left to keep full.
    """
    before = copy.deepcopy(choices)
    try:
        proposed = failure.position < END and propose(proof, failure, choices)
    except Failure as other:  # of the full network, which no number mends
        proposed, failure = False, other
    if proposed:
        for kind in choices.partly - before.partly:
            _keep_instead(proof.found, failure, kind, before, choices)
        return [choices]
    if failure.reason == OTHER_NUMBERS and sizes_that_stay(proof, failure, choices):
        return [choices]
    kinds = [class_or_name(net, name) for name in upwards(failure.module)]
    if doubtful := [kind for kind in kinds if kind in choices.instead]:
        return [choices.instead[doubtful[0]]]
    found, step = proof.found, failure.step
    if step is not None and (readings := _readings(step, choices)):
        kept = copy.deepcopy(choices)
        return [*readings, kept] if _at_step(found, step, failure.reason, kept) else readings
    if failure.position == END and step is not None and _scaled(found, step, choices):
        return [choices]
    if step is not None and _at_step(found, step, failure.reason, choices):
        return [choices]
    if any(_at_step(found, near, failure.reason, choices) for near in _around(found, failure)):
        return [choices]
    if _in_forward(net, found, failure, choices):
        return [choices]
    where = place_of(failure.module, type(net.get_submodule(failure.module)).__name__)
    raise FlowError(
        f"{step.here if step else where} fails with fewer channels, also where all of its own stay full "
        f"({failure.reason}); keep full what comes before it, with keep=[names of modules]"
    ) from failure.__cause__


def _keep_instead(found: Followed, failure: Failure, kind: str, before: Choices, choices: Choices) -> None:
    """Remember what to do where numbers that let a run go on turn out to lead nowhere: what entered stays full."""
    if failure.step is not None and _at_step(found, failure.step, failure.reason, before):
        before.refused.add((kind, shapes_of(found.net.get_submodule(failure.module))))
        choices.instead[kind] = before


def _readings(step: Step, choices: Choices) -> list[Choices]:
    """The other ways to read a view that cuts channels; all such views of a class mean the same."""
    out = step.outputs[0] if step.outputs else None
    dims = is_split_axis(step.inputs, out) if step.site[2] in VIEWS and isinstance(out, Tensor) else 0
    found = []
    for reading in range(len(readings(dims)) if dims else 0):
        if (step.site[0], dims, reading) not in choices.tried:
            choices.tried.add((step.site[0], dims, reading))
            found.append(reading)
    alternatives = [copy.deepcopy(choices) for _ in found]
    for other, reading in zip(alternatives, found, strict=True):
        other.views[step.site[0], dims] = reading
    return alternatives


def _at_step(found: Followed, step: Step, reason: str, choices: Choices) -> bool:
    """An operation failed: keep full what it cuts out, or what enters it, or its weight."""
    why = f"does not work with fewer channels ({reason}): {step.here}"
    if step.weights and "contiguous" in reason and not choices.copied.issuperset(ref.name for ref in step.weights):
        choices.copied.update(ref.name for ref in step.weights)
        return True
    if step.site[2] in SPLITS and _as_heads(found, step, choices):
        return True
    if step.site[2] in DIVIDES and step.site not in choices.proportional and any(map(found.slims, step.inputs)):
        choices.proportional.add(step.site)
        return True
    if step.site[2] in CUTS and step.site not in choices.parts and any(map(found.slims, step.outputs)):
        choices.parts[step.site] = why
        return True
    shapes = shapes_of(found.net.get_submodule(step.module))
    return (any(map(found.slims, step.inputs)) and _kept(choices.keep, step.site, shapes, why)) or (
        any(map(found.slims, step.weights)) and _kept(choices.weights, step.site, shapes, why)
    )


def _scaled(found: Followed, step: Step, choices: Choices) -> bool:
    """Numbers are wrong in a module that splits, as the scale is of heads that shrink: whole ones may slim."""
    splits = [s for s in found.axes.steps.get(step.module, []) if s.site[2] in SPLITS and s.site not in choices.weighed]
    tried = choices.scaled.setdefault(step.site, set())
    for split in splits:
        before = set(choices.whole)
        if _as_heads(found, split, choices):
            tried |= choices.whole - before
            return True
    choices.whole -= tried  # none of them is why
    return False


def _as_heads(found: Followed, step: Step, choices: Choices) -> bool:
    """Read a split, and those like it, as one into heads, of which whole ones slim; or no more, where that failed."""
    steps = found.axes.steps.get(step.module, [])
    alike = {s.site for s in steps if s.site[2] == step.site[2] and s.settings == step.settings}
    if step.site in choices.weighed or not any(map(found.slims, step.inputs)):
        choices.whole -= alike
        return False
    choices.weighed |= alike
    choices.whole |= alike
    return True


def _kept(kept: Kept, site: Site, shapes: Shapes, why: str) -> bool:
    """Keep full what is at a place in modules of these sizes; after a few such in all. Whether it was not yet."""
    if (site, None) in kept or (site, shapes) in kept:
        return False
    kept[site, shapes if sum(place == site for place, _ in kept) < FEW else None] = why
    return True


def _around(found: Followed, failure: Failure) -> list[Step]:
    """The operation that comes next, and the last one before it in the same module that computes with channels."""
    log = found.logs[failure.training]
    places = {step.moment: i for i, step in enumerate(log)}
    if failure.following is not None:
        place = places[failure.following.moment]
    else:
        place = places.get(failure.preceding.moment, -1) + 1 if failure.preceding is not None else 0
    before = (step for step in reversed(log[:place]) if step.module == failure.module)
    last = next((s for s in before if any(map(found.slims, s.inputs)) or any(map(found.slims, s.weights))), None)
    return [step for step in (failure.following, last) if step is not None]


def _in_forward(net: nn.Module, found: Followed, failure: Failure, choices: Choices) -> bool:
    """The code of a module failed: keep full what enters it, or its layers, or the same of the module around it."""
    for name in upwards(failure.module):
        same = alike(net, name)
        own = shapes_of(net.get_submodule(name))
        if len({shapes_of(net.get_submodule(n)) for n in same if n in choices.entering or n in choices.modules}) < FEW:
            same = [n for n in same if shapes_of(net.get_submodule(n)) == own]
        where = place_of(name, type(net.get_submodule(name)).__name__)
        why = f"does not work with fewer channels ({failure.reason}): {'forward of ' if name else ''}{where}"
        if name not in choices.entering and any(map(found.slims, found.entered.get(name, ()))):
            choices.entering.update(dict.fromkeys(same, why))
            return True
        ids_within = [ids for (of, _), ids in found.ties.atoms.items() if any(is_inside(of, n) for n in same)]
        if name not in choices.modules and any(map(found.slims, ids_within)):
            choices.modules.update(dict.fromkeys(same, why))
            return True
    return False
