"""What to do when the sliced network fails: propose numbers, read a view otherwise, or keep full what entered there."""

from __future__ import annotations

from torch import Tensor, nn

from slimlib.flow.ids import Shadow, WeightRef, distinct
from slimlib.flow.operations.movement import is_split_axis, readings
from slimlib.flow.proof.check import END, Failure, Followed, Proof
from slimlib.flow.proof.proposals import propose
from slimlib.flow.steps import VIEWS, Choices, FlowError, Step, alike, upwards

CUTS = {"slice", "narrow", "select", "index", "index_select", "gather"}


def repair(net: nn.Module, proof: Proof, failure: Failure, choices: Choices) -> None:
    """Add to `choices` what the failure teaches.

    Raises:
        FlowError: nothing is left to keep full.
    """
    if failure.position < END and propose(net, proof, failure, choices):
        return
    found = proof.found
    done = failure.step is not None and _at_step(found, failure.step, failure.reason, choices)
    if not done and not _in_forward(net, found, failure, choices):
        raise FlowError(f"the sliced network fails in '{failure.module}': {failure.reason}") from failure.__cause__


def _at_step(found: Followed, step: Step, reason: str, choices: Choices) -> bool:
    """An operation failed: read the view it is otherwise, or keep full what enters it, or its weight."""
    out = step.outputs[0] if step.outputs else None
    dims = is_split_axis(step.inputs, out) if step.site[2] in VIEWS and isinstance(out, Tensor) else 0
    cut = (step.site[0], dims)
    if dims and choices.views.get(cut, -1) + 1 < len(readings(dims)):  # all such views of a class mean the same
        choices.views[cut] = choices.views.get(cut, -1) + 1
        return True
    why = f"does not work with fewer channels ({reason}): {step.here}"
    if step.site[2] in CUTS and step.site not in choices.parts and any(_slims(found, out) for out in step.outputs):
        choices.parts[step.site] = why
        return True
    if step.site not in choices.keep and any(_slims(found, ids) for ids in step.inputs):
        choices.keep[step.site] = why
        return True
    if step.site not in choices.weights and any(_slims(found, ref) for ref in step.weights):
        choices.weights[step.site] = why
        return True
    return False


def _in_forward(net: nn.Module, found: Followed, failure: Failure, choices: Choices) -> bool:
    """The code of a module failed: keep full what enters it, or its layers, or the same of the module around it."""
    for name in upwards(failure.module):
        same = alike(net, name)
        kind = type(net.get_submodule(name)).__name__
        why = f"does not work with fewer channels ({failure.reason}): forward of '{name}' ({kind})"
        if name not in choices.entering and any(_slims(found, ids) for ids in found.entered.get(name, ())):
            choices.entering.update(dict.fromkeys(same, why))
            return True
        own = [ids for key, ids in found.ties.atoms.items() if any(key[0].startswith(f"{n}.") or not n for n in same)]
        if name not in choices.modules and any(_slims(found, ids) for ids in own):
            choices.modules.update(dict.fromkeys(same, why))
            return True
    return False


def _slims(found: Followed, shadow: Shadow | None) -> bool:
    if isinstance(shadow, WeightRef):
        return any(_slims(found, axis.ids) for axis in shadow.axes)
    return shadow is not None and bool(found.solution.slims[distinct(shadow)].any())
