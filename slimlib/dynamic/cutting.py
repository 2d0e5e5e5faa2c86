"""Cut a network in two at a place where it is a chain: what comes before, and what comes after."""

from __future__ import annotations

import difflib
from typing import Any

from torch import fx, nn

from slimlib.core.setting import slimming_of
from slimlib.core.slimming import Slimming
from slimlib.core.width import Width, WidthPlan


class PartOf(nn.Module):
    """A part of a slimmable network; its width is set as that of the whole."""

    def __init__(self, part: nn.Module, whole: Slimming) -> None:
        super().__init__()
        self.part = part
        self.__dict__.update(slim=whole, net=whole.net())  # which lives as long as its parts

    def forward(self, *args: Any) -> Any:
        whole: Slimming = self.__dict__["slim"]
        if whole.stale():
            whole.refresh()
        return self.part(*args)


def owner_of(part: nn.Module) -> Slimming | None:
    """The slimmable network that a module, not itself one, is a part of."""
    if any(isinstance(module.__dict__.get("slim"), Slimming) for module in part.modules()):
        return None
    owners = {id(s): s for m in part.modules() if isinstance(s := m.__dict__.get("slimming"), Slimming)}
    if len(owners) > 1:
        raise ValueError(
            f"this {type(part).__name__} holds parts of {len(owners)} slimmable networks; give those of one"
        )
    return next(iter(owners.values()), None)


def plans_of(whole: Slimming, stem: nn.Module, stem_width: Width, widths: tuple[Width, ...]) -> list[WidthPlan]:
    """The plans in which layers of the stem, and those tied to them, have one width, and the others any of these."""
    for width in (stem_width, *widths):
        whole.check(width)
    inside = set(stem.modules())
    names = {name for name, module in whole.net().named_modules() if module in inside}
    fixed = whole.channels_at(stem_width)
    of_stem = [bool(names & set(group.layers)) for group in whole.layout.groups]
    return [
        WidthPlan([a if stays else b for a, b, stays in zip(fixed, whole.channels_at(w), of_stem, strict=True)])
        for w in widths
    ]


def cut(net: nn.Module, before: str) -> tuple[nn.Module, nn.Module]:
    """What runs before a module of a slimmable network, and what runs from it on; they share its parameters.

    Args:
        net: a slimmable network.
        before: the name of a module in it that runs once, such as "features.8".

    Raises:
        ValueError: there is no such module, or the network is no chain there: something computed earlier is used after
            it too, as in the middle of a residual block; or torch.fx cannot follow its forward.
    """
    slimming_of(net)
    module = _call_of(net, before)
    graph = module.graph
    if len(module.all_input_nodes) != 1 or len(module.args) != 1:
        raise ValueError(f"'{before}' takes more than one input; a gate needs a place where the network is a chain")
    at = module.all_input_nodes[0]
    after = _depending_on(at, graph)
    for node in after:
        crossing = [used for used in node.all_input_nodes if used is not at and used not in after]
        if crossing:
            raise ValueError(
                f"a gate before '{before}' would be in the middle of a block: what '{_name(crossing[0])}' computed is "
                f"used after it by '{_name(node)}', too. Give a module at which the network is a chain, such as the "
                "first of a stage"
            )
    return _part(net, graph, None, at, after), _part(net, graph, at, None, after)


def modules_before(net: nn.Module, before: str) -> list[str]:
    """The names of the modules without parts that run before another one, in the order of a forward.

    Raises:
        ValueError: as `cut`.
    """
    nodes = list(_call_of(net, before).graph.nodes)
    called = [str(node.target) for node in nodes if node.op == "call_module"]
    return called[: called.index(before)]


def _call_of(net: nn.Module, name: str) -> fx.Node:
    """The one call of a module in the graph of a network."""
    known = dict(net.named_modules())
    if name not in list(known) or not name:
        near = difflib.get_close_matches(str(name), filter(None, known), n=4, cutoff=0.0)
        raise ValueError(f"{type(net).__name__} has no module {name!r}; it has {', '.join(near)}, for example")
    called: list[fx.Node] = [
        node for node in _trace(net, name).nodes if (node.op, node.target) == ("call_module", name)
    ]
    if len(called) != 1:
        raise ValueError(f"'{name}' runs {len(called)} times in a forward; give a module that runs once")
    return called[0]


def _trace(net: nn.Module, leaf: str) -> fx.Graph:
    names = {module: name for name, module in net.named_modules()}

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return names.get(m) == leaf or not list(m.children())

    try:
        graph = Tracer().trace(net)
    except Exception as error:  # whatever the forward does with something that is no tensor
        raise ValueError(
            f"torch.fx cannot follow the forward of {type(net).__name__} ({error}); give stem and tail as modules"
        ) from error
    for node in graph.nodes:
        if node.op == "get_attr" and str(node.target).startswith("_tensor_constant"):
            raise ValueError(
                f"the forward of {type(net).__name__} reads a parameter that slims; give stem and tail as modules"
            )
    return graph


def _depending_on(at: fx.Node, graph: fx.Graph) -> dict[fx.Node, None]:
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if any(used is at or used in found for used in node.all_input_nodes):
            found[node] = None
    return found


def _part(
    net: nn.Module, graph: fx.Graph, begin: fx.Node | None, end: fx.Node | None, after: dict[fx.Node, None]
) -> nn.Module:
    """The nodes before `end`, or those after `begin`, as a module."""
    own = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    if begin is not None:
        copies[begin] = own.placeholder("features")
    for node in graph.nodes:
        if (node in after) == (begin is not None) and node not in copies:
            copies[node] = own.node_copy(node, lambda used: copies[used])
            copies[node].type = None  # torch cannot pickle a graph with an annotation that is a string
    if end is not None:
        own.output(copies[end])
    for node in reversed(own.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            own.erase_node(node)
    return fx.GraphModule(dict(net.named_modules()), own)


def _name(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    return "the input" if node.op == "placeholder" else str(getattr(node.target, "__name__", node.target))
