"""`follow`: find the channel layout of a network by running it once on an example."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from slimlib.core.arguments import arguments
from slimlib.core.layout import Layout
from slimlib.flow.proof.check import Failure, Followed, Proof, prepare
from slimlib.flow.proof.proposals import agree, numbers
from slimlib.flow.proof.repair import repair
from slimlib.flow.solve import Rounding, Solution, layout, number_axes
from slimlib.flow.steps import Choices, FlowError, Step
from slimlib.flow.ties import Ties
from slimlib.flow.trace import Trace

ATTEMPTS = 60


def follow(
    net: nn.Module,
    example: Any,
    *,
    keep: Sequence[str] = (),
    divisor: int = 8,
    divisors: Mapping[str, int] | None = None,
) -> Layout:
    """Find which channels of a network may slim, and where each of them passes.

    The network runs on a copy, once in eval and once in training mode; the module given is not touched.

    Args:
        net: any module.
        example: what the network is called with: one argument, a tuple of them, or a dict by name.
        keep: names of modules (also of containers) whose output channels stay full.
        divisor: channel numbers are multiples of it; a group takes a smaller one where it has fewer than two.
        divisors: name of a layer -> another divisor, of its output channels.

    Raises:
        FlowError: nothing slims, or an operation cannot be followed; the message names layer and operation.
        ValueError: `keep` names no module of the network, `divisors` no layer that makes channels, or layers that
            must agree have several.
    """
    args = arguments(net, example)
    names, rounding = _kept_parameters(net, keep), Rounding(divisor, dict(divisors or {}))
    choices, copied, subject = Choices(), duplicate(net), None
    for _ in range(ATTEMPTS):
        try:
            found = analyse(net, copied, args, choices, names, rounding)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            args = tree_map(_twice, args)  # one image is too few for BatchNorm in training
            continue
        subject = subject or prepare(net, duplicate(net), args)
        proof = Proof(subject, found, choices)
        failure = _prove(proof)
        if failure is None:
            return found.layout
        repair(net, proof, failure, choices)
    raise FlowError(f"no layout of this {type(net).__name__} works in {ATTEMPTS} attempts; keep layers with keep=[...]")


def analyse(
    net: nn.Module,
    copied: nn.Module,
    args: tuple[Any, ...],
    choices: Choices,
    kept: Mapping[str, str],
    rounding: Rounding,
) -> Followed:
    """Follow the channels of `net` on a copy, without proof; `kept`: names of parameters that stay full -> why."""
    ties = Ties()
    logs: dict[bool, list[Step]] = {}
    entered: dict[str, list[Tensor]] = {}
    for training in (False, True):
        trace = Trace(copied.train(training), ties, choices, net)
        with torch.random.fork_rng():
            trace.follow(copy.deepcopy(args))
        ties.settle()
        logs[training] = trace.log
        entered |= trace.entered
    for (name, dim), ids in ties.atoms.items():
        if name in kept and ((name, dim) in ties.producers or dim is None):
            ties.fix(ids, kept[name])
        for module, why in choices.modules.items():
            if name.startswith(f"{module}.") or not module:
                ties.fix(ids, why)
    for name, compiled in net.named_modules():
        if isinstance(compiled, torch.jit.ScriptModule):
            ties.blocked[name] = "was compiled by torch.jit"
            ties.met.update(f"{name}.{parameter}" for parameter, _ in compiled.named_parameters())
    agree(ties, choices)
    solution = Solution(ties)
    found = Followed(ties, logs, entered, solution, layout(net, ties, solution, rounding))
    if not found.layout.groups:
        reasons = "; ".join(f"'{name}': {why}" for name, why in list(found.layout.kept.items())[:3])
        raise FlowError(f"nothing slims in this {type(net).__name__}. {reasons}")
    ties.numbers |= numbers(net, found, choices)
    found.layout = replace(found.layout, numbers=number_axes(ties, solution))
    return found


def _prove(proof: Proof) -> Failure | None:
    try:
        with torch.random.fork_rng():
            proof.run()
    except Failure as failure:
        return failure
    return None


def _twice(x: Any) -> Any:
    """A batch twice as large. The new images differ: BatchNorm makes of equal ones nothing but rounding errors."""
    if not isinstance(x, Tensor) or not x.dim():
        return x
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)).to(x.device)
    return torch.cat([x, x + noise.to(x.dtype) if x.is_floating_point() else x])


def duplicate(net: nn.Module) -> nn.Module:
    """A deep copy, also where a module holds a tensor that was computed (as the older weight_norm leaves it)."""
    memo: dict[int, Any] = {}
    for module in net.modules():
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(net, memo)


def _kept_parameters(net: nn.Module, keep: Sequence[str]) -> dict[str, str]:
    """Name of every parameter in the modules named -> why it stays."""
    modules = [name for name, _ in net.named_modules() if name]
    kept: dict[str, str] = {}
    for wanted in keep:
        if wanted not in modules:
            near = difflib.get_close_matches(wanted, modules, n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ValueError(f"keep={wanted!r} names no module of this {type(net).__name__}{hint}")
        for name, _ in net.named_parameters():
            if name.startswith(f"{wanted}."):
                kept[name] = f"kept by keep={wanted!r}"
    return kept
