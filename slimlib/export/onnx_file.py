"""The graph of one width as an ONNX file, checked by onnx and by onnxruntime."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from slimlib.core.structures import tensors
from slimlib.export.inputs import shapes
from slimlib.export.manifest import File
from slimlib.export.program import Program, quietly, renamed
from slimlib.export.trials import Trial

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

LARGEST = 2**31 - 2**24  # bytes of weights; protobuf ends at 2 GiB, and the graph needs some
ATEN = torch.ops.aten
HARDTANH = (ATEN.hardtanh.default, ATEN.hardtanh_.default)
FRESH = (ATEN.conv1d.default, ATEN.conv2d.default, ATEN.linear.default, ATEN.batch_norm.default, ATEN.add.Tensor)


def check_installed() -> None:
    """Raise ImportError, with what to install, unless ONNX files can be written and checked."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"export to ONNX needs {', '.join(missing)}: pip install 'slimlib[export]'. Or use formats=('torch',)"
        )


def convert(program: Program, net: nn.Module) -> ModelProto:
    """The ONNX model of a dense network that was followed.

    Raises:
        ValueError: ONNX has no operator for what it does (it is named), or it is too large or of a type that
            onnxruntime cannot be given.
    """
    _check_weights(net)
    _use_clamp(program)
    inputs, outputs = ([value.name for value in values] for values in (program.inputs, program.outputs))
    try:
        with quietly():
            made = torch.onnx.export(
                program.exported, dynamo=True, verbose=False, input_names=inputs, output_names=outputs
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(_unsupported(error, program, net)) from error
    assert made is not None
    model: ModelProto = made.model_proto
    _tidy(model.graph, program.sizes)
    return model


def write(model: ModelProto, file: Path, runs: Iterable[tuple[Trial, Mapping[str, Tensor]]]) -> File:
    """Write an ONNX file, and check it and what it gives.

    Args:
        model: what to write.
        file: where.
        runs: what must come out of it, each with further inputs by name.

    Raises:
        ValueError: onnxruntime cannot run it.
        RuntimeError: its outputs differ from torch's.
    """
    import onnx

    file.write_bytes(model.SerializeToString())
    onnx.checker.check_model(model, full_check=True)
    session = load(file)
    for trial, more in runs:
        trial.check(file.name, run(session, file, trial.args, more))
    return File.of(file)


def load(file: Path) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        ValueError: it cannot run the file.
    """
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's have no class in common
        raise ValueError(f"onnxruntime cannot load {file.name}: {_first_line(error)}") from error


def run(session: Any, file: Path, args: Any, more: Mapping[str, Tensor]) -> list[Tensor]:
    """The outputs of a file for the tensors in `args`, and for further inputs by name."""
    names = [value.name for value in session.get_inputs() if value.name not in more]
    feeds = dict(zip(names, tensors(args), strict=True)) | dict(more)
    try:
        outputs = session.run(None, {name: tensor.numpy(force=True) for name, tensor in feeds.items()})
    except Exception as error:  # onnxruntime's have no class in common
        where = f"{file.name} on inputs {shapes(args)}"
        raise ValueError(f"onnxruntime cannot run {where}: {_first_line(error)}") from error
    return [torch.from_numpy(output) for output in outputs]


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators that a model uses."""
    return next(int(opset.version) for opset in model.opset_import if not opset.domain)


def _check_weights(net: nn.Module) -> None:
    held = [*net.parameters(), *net.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in held)
    if size > LARGEST:
        raise ValueError(f"an ONNX file holds 2 GB, and this network has {size / 1e9:.1f} GB; use formats=('torch',)")
    if any(tensor.dtype == torch.bfloat16 for tensor in held):
        raise ValueError("onnxruntime cannot be checked with bfloat16; export net.float(), or use formats=('torch',)")


def _use_clamp(program: Program) -> None:
    """ReLU6 as the one operation that it is in ONNX.

    torch.onnx takes hardtanh apart, which is more than half of the time that MobileNets need. In place, it becomes
    one that is not where nobody else can see the difference: what it reads is new memory, and has no other reader.
    """
    for node in program.exported.graph.nodes:
        if node.target in HARDTANH and len(node.args) == 3:  # both limits are given
            source = node.args[0]
            if node.target is HARDTANH[0] or (source.target in FRESH and len(source.users) == 1):
                node.target = ATEN.clamp.default


def _tidy(graph: GraphProto, sizes: Mapping[str, str]) -> None:
    """Our names for sizes, and nothing that only tells how the graph was made (stack traces with paths, above all)."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = renamed(dim.dim_param, sizes)
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _tidy(attribute.g, sizes)


def _unsupported(error: Exception, program: Program, net: nn.Module) -> str:
    """One sentence for torch.onnx's report: the operator, and the module that calls it."""
    cause = error
    while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    found = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(cause))
    if found is None:
        return f"torch.onnx cannot convert {type(net).__name__}: {_first_line(cause)}"
    with quietly():
        nodes = program.exported.run_decompositions().graph.nodes
    where = next((_module_of(node) for node in nodes if str(node.target).startswith(found[1])), "")
    return f"ONNX has no operator for {found[1]}{where}; replace it, or use formats=('torch',)"


def _module_of(node: Node) -> str:
    path, kind = list(node.meta.get("nn_module_stack", {"": ("", "")}).values())[-1]
    kind = kind if isinstance(kind, str) else kind.__qualname__
    called = f"'{path}' ({kind.rpartition('.')[2]})" if path else f"the forward of {kind.rpartition('.')[2]}"
    return f", which {called} uses"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
