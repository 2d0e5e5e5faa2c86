"""Modules that never ran on the example, as experts that no token reached: they follow one of their kind that ran."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import nn

from slimlib.flow.steps import is_inside
from slimlib.flow.ties import Ties


def follow_siblings(net: nn.Module, ties: Ties) -> None:
    """Tie the channels of each module that never ran to those of one in the same list or dict that did.

    Both have the same class and the same shapes. Where several ran, they must share channels, those that enter say.
    """
    known = dict(net.named_parameters())  # by their first names
    for path, container in net.named_modules():
        if not isinstance(container, nn.ModuleList | nn.ModuleDict):
            continue
        ran: dict[Hashable, list[str]] = {}
        idle: list[tuple[str, Hashable, list[str]]] = []
        for name, child in container.named_children():
            child_path = f"{path}.{name}".lstrip(".")
            names = [f"{child_path}.{own}" for own, _ in child.named_parameters()]
            if not all(own in known for own in names):
                continue
            kind: Hashable = type(child), tuple((own, value.shape) for own, value in child.state_dict().items())
            if any(own in ties.met for own in names):
                ran.setdefault(kind, []).append(child_path)
            elif names:
                idle.append((child_path, kind, names))
        for child_path, kind, names in idle:
            if kind in ran and _agree(ties, ran[kind]):
                _tie(ties, child_path, names, ran[kind][0])


def _tie(ties: Ties, idle: str, names: Sequence[str], model: str) -> None:
    ties.like[idle] = model
    ties.met.update(names)
    for key, ids in list(ties.atoms.items()):
        if is_inside(key[0], model):
            own = idle + key[0].removeprefix(model), key[1]
            ties.tie(ties.fresh(own, len(ids)), ids, "")
            if key in ties.producers:
                ties.producers[own] = None
            if key in ties.inner:
                ties.inner.add(own)


def _agree(ties: Ties, models: Sequence[str]) -> bool:
    """Whether modules share some of their channels, and have the others each for itself."""
    labels, shared = ties.labels(), len(models) == 1
    for key, ids in ties.atoms.items():
        if not is_inside(key[0], models[0]):
            continue
        others = [ties.atoms.get((model + key[0].removeprefix(models[0]), key[1])) for model in models[1:]]
        own = labels[ids]
        for other in others:
            if other is None:
                return False
            same = torch.equal(own, labels[other])
            if not same and bool(torch.isin(own, labels[other]).any()):
                return False
            shared |= same
    return shared
