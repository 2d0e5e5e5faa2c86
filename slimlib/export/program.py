"""The graph of one width, followed by torch.export, and its `.pt2` file."""

from __future__ import annotations

import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_flatten_with_path

from slimlib.core.random_numbers import unchecked_distributions
from slimlib.core.structures import tensors
from slimlib.export.inputs import Inputs
from slimlib.export.manifest import File, Value
from slimlib.export.trials import Trial

SILENT = logging.CRITICAL + 1


@dataclass(frozen=True)
class Program:
    """A dense network as torch.export followed it.

    Attributes:
        exported: the graph.
        sizes: torch's names of the sizes that are free -> ours.
        inputs, outputs: their names, shapes and types.
    """

    exported: ExportedProgram
    sizes: Mapping[str, str]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def trace(net: nn.Module, inputs: Inputs, outputs: Any) -> Program:
    """Follow a dense network.

    Args:
        net: in eval mode, on the CPU.
        inputs: its arguments, and what may vary in them.
        outputs: what it returned for them.

    Raises:
        ValueError: it cannot be followed, or a size that should be free is a constant in its forward.
    """
    name, failed, fixed = type(net).__name__, None, ""
    for strict in (False, True):  # `len(x)` is a constant to the one, and much of Python unknown to the other
        try:
            with quietly(), unchecked_distributions():
                exported = torch.export.export(net, inputs.to_trace(), dynamic_shapes=inputs.free(), strict=strict)
        except Exception as error:  # whatever the forward or torch.export raises
            failed = failed or error
            continue
        fixed = _fixed_size(exported, inputs)
        if not fixed:
            return _program(exported, inputs, outputs)
    reason = fixed if failed is None else _reason(failed)
    raise ValueError(f"torch.export cannot follow the forward of {name}: {reason}") from failed


def write_program(program: Program, file: Path, trials: Sequence[Trial]) -> File:
    """Write a `.pt2` file, and check what it gives when it is loaded again.

    Raises:
        ValueError: torch.export cannot save it, or it does not run where torch does.
    """
    with quietly(), torch.no_grad():
        try:
            torch.export.save(program.exported, file)
        except NotImplementedError as error:  # of classes that are not registered, such as a NamedTuple
            raise ValueError(
                f"torch.export cannot save {file.name}: {_reason(error)} Or use formats=['onnx'], or plain tuples"
            ) from error
        loaded = torch.export.load(file).module()
        for trial in trials:
            try:
                got = tensors(loaded(*copy.deepcopy(trial.args)))
            except Exception as error:  # of any kind, as torch.export checks sizes by what the forward did with them
                raise ValueError(f"{file.name} does not run where torch does: {_reason(error)}") from error
            trial.check(file.name, got)
    return File.of(file)


def _program(exported: ExportedProgram, inputs: Inputs, outputs: Any) -> Program:
    for module in exported.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)  # it has the paths of this machine
    exported.example_inputs = None  # they need not travel with the weights
    entering, leaving = _entering(exported), _leaving(exported)
    sizes: dict[str, str] = {}
    for tensor in entering.values():
        for dim, name in inputs.dynamic.items():
            if dim < len(tensor.shape):
                sizes.setdefault(str(tensor.shape[dim]), name)
    names = _output_names(outputs)
    return Program(
        exported,
        sizes,
        tuple(_value(name, tensor, sizes) for name, tensor in entering.items()),
        tuple(_value(name, tensor, sizes) for name, tensor in zip(names, leaving, strict=True)),
    )


def _entering(exported: ExportedProgram) -> dict[str, Tensor]:
    """Name of each tensor that is an input -> the fake tensor that has its shape."""
    given = exported.graph_signature.user_inputs
    found = {node.name: node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder"}
    return {name: value for name, value in found.items() if name in given and isinstance(value, Tensor)}


def _leaving(exported: ExportedProgram) -> list[Tensor]:
    returned = set(exported.graph_signature.user_outputs)
    nodes: Any = exported.graph.output_node().args[0]
    return [node.meta["val"] for node in nodes if node is not None and node.name in returned]


def _output_names(outputs: Any) -> list[str]:
    """One output is "output"; several have their place in what forward returned behind it."""
    leaves = [(path, leaf) for path, leaf in tree_flatten_with_path(outputs)[0] if isinstance(leaf, Tensor)]
    if len(leaves) == 1:
        return ["output"]
    return ["_".join(["output", *re.findall(r"\w+", "".join(map(str, path)))]) for path, _ in leaves]


def _value(name: str, tensor: Tensor, sizes: Mapping[str, str]) -> Value:
    shape = tuple(size if isinstance(size, int) else renamed(str(size), sizes) for size in tensor.shape)
    return Value(name, shape, str(tensor.dtype).removeprefix("torch."))


def renamed(size: str, sizes: Mapping[str, str]) -> str:
    """A size, maybe computed from others, in our names: "2*s77" -> "2*height"."""
    return re.sub(r"\w+", lambda word: sizes.get(word[0], word[0]), size)


def _fixed_size(exported: ExportedProgram, inputs: Inputs) -> str:
    """The size that should be free but is a constant in the graph; empty if there is none."""
    for tensor in _entering(exported).values():
        for dim, name in inputs.dynamic.items():
            if dim < len(tensor.shape) and isinstance(tensor.shape[dim], int):
                return f"it only runs with a {name} of {tensor.shape[dim]}, as it uses that size as a constant"
    return ""


def _reason(error: Exception) -> str:
    """One sentence of a report that fills pages."""
    text = str(error)
    constant = re.search(r"marked (\w+) as dynamic but your code specialized it to be a constant \((\d+)\)", text)
    if constant:
        return f"it only runs with a {constant[1]} of {constant[2]}, as it uses that size as a constant"
    code = re.search(r"call raised this error:\n(?:.*\n)??\s*File .*\n\s*(.+)", text)
    caused = re.search(r"Caused by: \(.*/(\S+ in \w+)\)", text)
    where = f" (in `{code[1]}`)" if code else f" (at {caused[1]})" if caused else ""
    if "data-dependent" in text:
        return f"it goes another way for other values{where}"
    return f"{type(error).__name__}: {text.strip().partition(chr(10))[0]}{where}"


@contextmanager
def quietly() -> Iterator[None]:
    """Without the prints, warnings and logs of torch's exporters, which users cannot change; errors are raised."""
    noisy: list[logging.Handler | logging.Logger] = [logging.getLogger("onnxscript"), logging.getLogger("onnx_ir")]
    for name, logger in logging.Logger.manager.loggerDict.items():
        if name.split(".")[0] == "torch" and isinstance(logger, logging.Logger):
            noisy += logger.handlers
    before = [each.level for each in noisy]
    try:
        for each in noisy:
            each.setLevel(SILENT)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(noisy, before, strict=True):
            each.setLevel(level)
