"""One ONNX file for several widths: each has its graph, in a branch, and all share one copy of the weights.

A branch cuts its weights out of the shared ones. As that depends on no input, onnxruntime does it once, when it
loads the file, and then prepares them for its kernels like those of a file with this width alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slimlib.core.slimming import Slimming
from slimlib.core.width import Width, WidthPlan
from slimlib.export.shared_weights import Cut, share

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

INDEX = "width_index"
Step = tuple[str, Mapping[str, Tensor], Mapping[str, Any]]  # operator, its constant inputs, its attributes


def join(models: Sequence[ModelProto], slimming: Slimming, widths: Sequence[Width]) -> ModelProto:
    """One model that runs as any of several, by the input `width_index`: its place among them.

    Args:
        models: those of each width, with the same inputs and outputs; at least two.
        slimming: the state of the network that they are of.
        widths: of the models, in the same order.
    """
    from onnx import TensorProto, helper, numpy_helper

    held = [{t.name: torch.tensor(numpy_helper.to_array(t)) for t in model.graph.initializer} for model in models]
    wholes, cuts = share(held, slimming, [slimming.channels_at(width) for width in widths])
    branches = [_branch(model.graph, f"{n}/", held[n], cuts[n]) for n, model in enumerate(models)]
    graph = _choose(branches, 0, [value.name for value in models[0].graph.output])
    graph.input.extend([*models[0].graph.input, helper.make_tensor_value_info(INDEX, TensorProto.INT64, [])])
    # An index out of range is an error of this node; without it, some branch would run.
    graph.node.insert(0, helper.make_node("Gather", ["slimlib/places", INDEX], ["slimlib/place"]))
    graph.initializer.append(_constant("slimlib/places", torch.arange(len(models))))
    graph.initializer.extend(_constant(name, whole) for name, whole in wholes.items())
    joined = helper.make_model(graph, opset_imports=models[0].opset_import, ir_version=models[0].ir_version)
    joined.functions.extend(models[0].functions)
    plain = [list(width.channels) if isinstance(width, WidthPlan) else width for width in widths]
    helper.set_model_props(joined, {"widths": json.dumps(plain)})
    return joined


def _choose(branches: Sequence[GraphProto], first: int, names: Sequence[str], prefix: str = "") -> GraphProto:
    """A graph that halves the branches, the first of which has that number, until one is left."""
    from onnx import helper

    if len(branches) == 1:
        return branches[0]
    middle = len(branches) // 2
    limit, less = (f"slimlib/{what}_{first + middle}" for what in ("limit", "less"))
    outputs = copy.deepcopy(list(branches[0].output))
    for output, name in zip(outputs, names, strict=True):
        output.name = prefix + name
    halves = {
        "then_branch": _choose(branches[:middle], first, names, f"{first}-{first + middle}/"),
        "else_branch": _choose(branches[middle:], first + middle, names, f"{first + middle}-{first + len(branches)}/"),
    }
    nodes = [
        helper.make_node("Less", ["slimlib/place", limit], [less]),
        helper.make_node("If", [less], [output.name for output in outputs], **halves),
    ]
    return helper.make_graph(
        nodes, prefix or "any_width", [], outputs, [_constant(limit, torch.tensor(first + middle))]
    )


def _branch(graph: GraphProto, prefix: str, held: Mapping[str, Tensor], cuts: Mapping[str, Cut]) -> GraphProto:
    """The graph of one width as a branch: its own names, the inputs of the whole, and weights that are cut out."""
    branch = copy.deepcopy(graph)
    outside = {value.name for value in graph.input} | {""}
    del branch.input[:], branch.initializer[:]
    _rename(branch, lambda name: name if name in outside else prefix + name)
    nodes = list(branch.node)
    del branch.node[:]
    for name, tensor in held.items():
        if name in cuts:
            made, constants = _cut_out(name, prefix + name, cuts[name])
            branch.node.extend(made)
            branch.initializer.extend(constants)
        else:
            branch.initializer.append(_constant(prefix + name, tensor))
    branch.node.extend(nodes)
    return branch


def _rename(graph: GraphProto, rename: Callable[[str], str]) -> None:
    for node in graph.node:
        node.name = rename(node.name)
        for names in (node.input, node.output):
            names[:] = [rename(name) for name in names]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, rename)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = rename(value.name)


def _cut_out(source: str, target: str, cut: Cut) -> tuple[list[NodeProto], list[TensorProto]]:
    """The nodes that make the weight `target` of a branch from the shared one, and their constants."""
    from onnx import helper

    nodes, constants, value = [], [], source
    steps = _steps(cut)
    for number, (operator, inputs, attributes) in enumerate(steps, start=1):
        names = {key: f"{target}/{number}/{key}" for key in inputs}
        made = target if number == len(steps) else f"{target}/{number}"
        nodes.append(helper.make_node(operator, [value, *names.values()], [made], **attributes))
        constants += [_constant(names[key], tensor) for key, tensor in inputs.items()]
        value = made
    return nodes, constants


def _steps(cut: Cut) -> list[Step]:
    shorter = [dim for dim, size in enumerate(cut.whole) if len(cut.positions[dim]) < size]
    leading = [dim for dim in shorter if torch.equal(cut.positions[dim], torch.arange(len(cut.positions[dim])))]
    steps: list[Step] = []
    if leading:
        ends = torch.tensor([len(cut.positions[dim]) for dim in leading])
        steps.append(("Slice", {"starts": torch.zeros_like(ends), "ends": ends, "axes": torch.tensor(leading)}, {}))
    steps += [("Gather", {"positions": cut.positions[dim]}, {"axis": dim}) for dim in shorter if dim not in leading]
    if cut.factor is not None:
        steps.append(("Mul", {"factor": cut.factor}, {}))
    # onnxruntime does not prepare weights from outside of a branch, so all of a weight has to be copied into it, by
    # an operator that it does not take out as needless (Identity): measured without, 2.2 times the latency.
    return steps or [("Concat", {}, {"axis": 0})]


def _constant(name: str, tensor: Tensor) -> TensorProto:
    from onnx import numpy_helper

    made: TensorProto = numpy_helper.from_array(tensor.numpy(), name)
    return made
