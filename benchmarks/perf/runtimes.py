"""Other runtimes than torch, each with one thread: what they make of an ONNX file is a function of an array."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

Run = Callable[..., Any]
PACKAGES = {"onnxruntime": ("onnxruntime",), "OpenVINO": ("openvino", "onnxruntime")}


def missing(runtime: str) -> str | None:
    """What a runtime needs and this machine lacks; None if it can run."""
    if runtime == "torch.compile":
        compilers = (os.environ.get("CXX", "g++"), "clang++")
        return None if any(map(shutil.which, compilers)) else "C++ compiler"
    return next((f"package {name}" for name in PACKAGES.get(runtime, ()) if find_spec(name) is None), None)


def in_onnxruntime(file: Path) -> Run:
    """The first output of an ONNX file: of images, or of the place of a width and images."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the calling one, whose time is measured
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(*given: Any) -> Any:
        *place, x = given
        return session.run(None, dict(zip(names, [x, *(np.array(p) for p in place)], strict=True)))[0]

    return run


def in_openvino(file: Path) -> Run:
    """The first output of an ONNX file; float32 stays float32 where the processor has bfloat16, too."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(file), "CPU", settings).create_infer_request()
    return lambda x: request.infer([x], share_inputs=True)[0]


def quantise(file: Path, images: Sequence[torch.Tensor], target: Path) -> Path:
    """Write an ONNX file in int8, its ranges measured on these inputs (static quantisation, a scale for each channel).

    Args:
        file: of one input, in float32.
        images: [N, C, H, W] each.
        target: the file to write; returned.
    """
    from onnxruntime.quantization import (  # type: ignore[import-untyped]
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]

    name = _input_name(file)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest: Iterator[torch.Tensor] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            x = next(self.rest, None)
            return None if x is None else {name: x.contiguous().numpy()}

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(file), str(prepared))
    quantize_static(
        str(prepared), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return target


def _input_name(file: Path) -> str:
    import onnx

    return str(onnx.load(str(file), load_external_data=False).graph.input[0].name)
