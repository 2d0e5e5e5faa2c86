"""What to do when the sliced network fails: propose numbers, read a view otherwise, or keep full what entered there."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from slimlib.flow.operations.movement import is_split_axis, readings
from slimlib.flow.proof.check import END, Failure, Followed, Proof
from slimlib.flow.proof.proposals import propose
from slimlib.flow.steps import VIEWS, Choices, FlowError, Step, alike, upwards

DIVIDES = {"slice", "narrow", "split", "split_with_sizes", "chunk"}
CUTS = {"slice", "narrow", "select", "index", "index_select", "gather"}


def repair(net: nn.Module, proof: Proof, failure: Failure, choices: Choices) -> list[Choices]:
    """What the failure teaches, added to `choices`; several where only their outcome tells which is best.

    Raises:
        FlowError: nothing is left to keep full.
    """
    if failure.position < END and propose(proof, failure, choices):
        return [choices]
    found, step = proof.found, failure.step
    if step is not None and (readings := _readings(step, choices)):
        kept = copy.deepcopy(choices)
        return [*readings, kept] if _at_step(found, step, failure.reason, kept) else readings
    if step is not None and _at_step(found, step, failure.reason, choices):
        return [choices]
    if _in_forward(net, found, failure, choices):
        return [choices]
    raise FlowError(f"the sliced network fails in '{failure.module}': {failure.reason}") from failure.__cause__


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
    if step.site[2] in DIVIDES and step.site not in choices.proportional and any(map(found.slims, step.inputs)):
        choices.proportional.add(step.site)
        return True
    if step.site[2] in CUTS and step.site not in choices.parts and any(map(found.slims, step.outputs)):
        choices.parts[step.site] = why
        return True
    if step.site not in choices.keep and any(map(found.slims, step.inputs)):
        choices.keep[step.site] = why
        return True
    if step.site not in choices.weights and any(map(found.slims, step.weights)):
        choices.weights[step.site] = why
        return True
    return False


def _in_forward(net: nn.Module, found: Followed, failure: Failure, choices: Choices) -> bool:
    """The code of a module failed: keep full what enters it, or its layers, or the same of the module around it."""
    for name in upwards(failure.module):
        same = alike(net, name)
        kind = type(net.get_submodule(name)).__name__
        why = f"does not work with fewer channels ({failure.reason}): forward of '{name}' ({kind})"
        if name not in choices.entering and any(map(found.slims, found.entered.get(name, ()))):
            choices.entering.update(dict.fromkeys(same, why))
            return True
        own = [ids for key, ids in found.ties.atoms.items() if any(key[0].startswith(f"{n}.") or not n for n in same)]
        if name not in choices.modules and any(map(found.slims, own)):
            choices.modules.update(dict.fromkeys(same, why))
            return True
    return False
