"""Networks whose modules run one after another: up to where two plans compute the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.core.layout import Axis
from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.setting import in_eval, slimming_of
from slimlib.core.slimming import Slimming

Plan = tuple[int, ...]


class Chain:
    """Modules of a network, each of which runs on what the one before it put out, the first on the input.

    Boundary b lies before module b: what passes it depends on the channels of the modules before it alone.
    """

    def __init__(self, net: nn.Module, modules: Sequence[nn.Module]) -> None:
        self.modules = list(modules)
        owned = [{id(inner) for inner in module.modules()} for module in modules]
        names = {name: id(module) for name, module in net.named_modules(remove_duplicate=False)}
        touched: list[set[int]] = [set() for _ in modules]
        for name, groups in _groups_by_module(slimming_of(net)):
            owner = next(names[name[:end]] for end in _prefix_ends(name) if name[:end] in names)
            for groups_of, ids in zip(touched, owned, strict=True):
                if owner in ids:
                    groups_of |= groups
        self._touched = [sorted(groups) for groups in touched]

    def signature(self, plan: Plan) -> tuple[Plan, ...]:
        """The channel numbers on which each module depends, and the whole plan last."""
        return (*(tuple(plan[group] for group in groups) for groups in self._touched), plan)

    def shared(self, a: Plan, b: Plan) -> int:
        """The last boundary up to which two plans compute the same."""
        pairs = zip(self.signature(a), self.signature(b), strict=True)
        return next((boundary for boundary, (x, y) in enumerate(pairs) if x != y), len(self.modules))

    def in_order(self, plans: Sequence[Plan]) -> list[Plan]:
        """Plans that share much side by side, so that few boundaries have to be kept at a time."""
        return sorted(plans, key=self.signature)


def _groups_by_module(slimming: Slimming) -> Iterator[tuple[str, set[int]]]:
    """Names of tensors and modules, and the groups that they depend on."""
    layout = slimming.layout
    yield from ((name, set(range(len(layout.groups)))) for name in slimming.heads)  # a band is one of the whole plan
    held: list[tuple[str, Iterable[Axis]]] = [(name, dims.values()) for name, dims in layout.axes.items()]
    held += [(name, found.values()) for name, found in layout.numbers.items()]
    held += [(name, [axis]) for name, axis in layout.norm_inputs.items()]
    for name, axes in held:
        yield name, {s.group for axis in axes for s in axis if s.group is not None}


def _prefix_ends(name: str) -> Iterator[int]:
    """Ends of the parts of a dotted name, longest first, and 0 for the network itself."""
    yield len(name)
    yield from (i for i in range(len(name) - 1, 0, -1) if name[i] == ".")
    yield 0


def find_chain(net: nn.Module, root: nn.Module, x: Tensor) -> Chain:
    """The chain at the beginning of a network on an input, which may be of no modules.

    root: the slimmable network in `net`.
    """
    with in_eval(net), torch.no_grad(), own_random_numbers():
        return Chain(root, _Calls(root).run(net, x))


class _Calls:
    """Who called whom in one run, on what, and what came out."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.inside: dict[nn.Module, list[tuple[nn.Module, Any, Any]]] = {m: [] for m in root.modules()}
        self.times = dict.fromkeys(root.modules(), 0)
        self._running: list[nn.Module] = []

    def run(self, net: nn.Module, x: Tensor) -> list[nn.Module]:
        handles = []
        for module in self.root.modules():
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
        try:
            net(x)
        finally:
            for handle in handles:
                handle.remove()
        return self._chain(self.root, x)

    def _enter(self, module: nn.Module, _args: Any) -> None:
        self._running.append(module)
        self.times[module] += 1

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._running.pop()
        if self._running:
            x = args[0] if len(args) == 1 and not kwargs else None
            self.inside[self._running[-1]].append((module, x, output))

    def _chain(self, parent: nn.Module, x: Any) -> list[nn.Module]:
        """The modules called in the forward of `parent`, one after another, from `x` on."""
        found: list[nn.Module] = []
        last = None
        for module, entered, output in self.inside[parent]:
            if entered is x and isinstance(output, Tensor) and self.times[module] == 1:
                found += self._taken_apart(module)
                last, x = (module, entered), output
        if last is not None and not _is_sequence(last[0]):
            found[-1:] = self._chain(*last) or found[-1:]
        return found

    def _taken_apart(self, module: nn.Module) -> list[nn.Module]:
        if not _is_sequence(module) or any(self.times[child] != 1 for child in module.children()):
            return [module]
        return [part for child in module.children() for part in self._taken_apart(child)]


def _is_sequence(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
