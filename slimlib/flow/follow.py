"""`follow`: find the channel layout of a network by running it once on an example."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.core.arguments import arguments
from slimlib.core.layout import Layout, axis_size
from slimlib.core.structures import map_tensors, tensors
from slimlib.flow.proof.check import Failure, Followed, Proof, prepare
from slimlib.flow.proof.proposals import agree, numbers
from slimlib.flow.proof.repair import repair
from slimlib.flow.solve import Conflict, Rounding, Solution, layout, number_axes
from slimlib.flow.steps import Choices, FlowError, Step
from slimlib.flow.ties import Ties
from slimlib.flow.trace import Trace, unchanged

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
    found: Followed | None = None
    for _ in range(ATTEMPTS):
        try:
            found = found or analyse(net, copied, args, choices, names, rounding)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            args = _twice(copied, args)  # one image is too few for BatchNorm in training
            continue
        subject = subject or prepare(net, duplicate(net), args)
        proof = Proof(subject, found, choices)
        failure = _prove(proof)
        if failure is None:
            return found.layout
        before = replace(copy.deepcopy(choices), numbers={})
        alternatives = repair(net, proof, failure, choices)
        choices = alternatives[0]
        found = _numbered(net, found, choices) if replace(choices, numbers={}) == before else None
        if len(alternatives) > 1:
            choices = min(alternatives, key=lambda c: _left(net, copied, args, c, names, rounding))
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
    agree(net, ties, logs, entered, choices)
    solution, laid_out = _solve(net, ties, rounding)
    found = Followed(ties, logs, entered, solution, laid_out)
    if not found.layout.groups:
        reasons = "; ".join(f"'{name}': {why}" for name, why in list(found.layout.kept.items())[:3])
        raise FlowError(f"nothing slims in this {type(net).__name__}. {reasons}")
    contiguous = tuple(name for name in sorted(choices.copied) if name in found.layout.axes)
    found.layout = replace(found.layout, contiguous=contiguous)
    return _numbered(net, found, choices)


def _numbered(net: nn.Module, found: Followed, choices: Choices) -> Followed:
    """With the numbers that modules hold, as far as they are chosen."""
    found.ties.numbers |= numbers(net, found, choices)
    found.layout = replace(found.layout, numbers=number_axes(found.ties, found.solution))
    return found


def _solve(net: nn.Module, ties: Ties, rounding: Rounding) -> tuple[Solution, Layout]:
    """What the ties say, and what stays besides, since parameters are cut along their axes alone."""
    while True:
        solution = Solution(ties)
        try:
            return solution, layout(net, ties, solution, rounding)
        except Conflict as conflict:
            ties.fix(conflict.ids, conflict.why)


def _prove(proof: Proof) -> Failure | None:
    try:
        with torch.random.fork_rng():
            proof.run()
    except Failure as failure:
        return failure
    return None


def _left(
    net: nn.Module,
    copied: nn.Module,
    args: tuple[Any, ...],
    choices: Choices,
    kept: Mapping[str, str],
    rounding: Rounding,
) -> float:
    """How many parameters are left where half of each group's units are active, as far as an analysis can tell."""
    try:
        layout = analyse(net, copied, args, choices, kept, rounding).layout
    except FlowError:
        return torch.inf
    half = [(units + 1) // 2 for units in layout.full]
    left = 0.0
    for name, parameter in net.named_parameters():
        axes = layout.axes.get(name, {})
        left += parameter.numel() * prod(axis_size(axis, half) / parameter.shape[dim] for dim, axis in axes.items())
    return left


def _twice(net: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Two images instead of one, which is too few for BatchNorm in training; what has no batch stays.

    The new image differs: BatchNorm makes of equal ones nothing but rounding errors.
    """
    given = tensors(args)
    alone = [x for x in given if x.dim() and len(x) == 1]
    for doubled in (alone, [x for x in alone if x.dim() > 1], alone[:1]):
        many = {id(x) for x in doubled}
        wider: tuple[Any, ...] = map_tensors(partial(_with_another, of=many), args)
        try:
            with torch.no_grad(), torch.random.fork_rng(), unchanged(net):
                net.train()(*copy.deepcopy(wider))
        except (RuntimeError, ValueError, IndexError):
            continue
        return wider
    raise FlowError(
        f"a BatchNorm of this {type(net).__name__} has one value per channel on the example, too few in training; "
        "give an example of two images"
    )


def _with_another(x: Tensor, of: set[int]) -> Tensor:
    if id(x) not in of:
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
