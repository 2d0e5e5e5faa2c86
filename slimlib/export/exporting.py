"""`export`: the files of several widths, each checked, written into one folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from slimlib.core.swapping import no_autocast
from slimlib.core.whole_file import as_path
from slimlib.core.width import Width, WidthPlan
from slimlib.export import any_width, onnx_file
from slimlib.export.folder import new_folder
from slimlib.export.manifest import CascadeEntry, Entry, File, Manifest
from slimlib.export.program import Program, trace, write_program
from slimlib.export.request import ANY_WIDTH, ONNX, TORCH, Cascade, Metrics, Request
from slimlib.export.trials import Trial, run_trials
from slimlib.serving.cost import cost

if TYPE_CHECKING:
    from onnx import ModelProto


@no_autocast()
def export(
    net: nn.Module,
    path: str | Path,
    widths: Sequence[Width],
    example: Any,
    *,
    formats: Sequence[str] = (ONNX, TORCH),
    dynamic: Mapping[int, str] | None = None,
    fold: bool = True,
    metrics: Metrics | None = None,
    cascade: Cascade | None = None,
) -> Manifest:
    """Write a slimmable network as files that do not need slimlib, with a `manifest.json` beside them.

    Every file is read back and compared with torch: on the example, with another batch and, where they are
    dynamic, other sizes. The folder appears whole or, on an error, not at all.

    Formats:
        "onnx": a file for each width, `width-0.5.onnx`.
        "torch": a torch.export program for each width, `width-0.5.pt2`.
        "onnx-any-width": one file for all of the widths, `any-width.onnx`. Its last input `width_index`, int64
            without dimensions, is the place of the wanted one in `widths`. The file holds each weight once; onnxruntime
            prepares those of every width when it loads it, and takes as much memory as for all files of "onnx".
            It then runs as fast as they do: 0.95 to 1.04 times their latency (MobileNet v2, ResNet-18; batch 1, one
            thread). Slicing in each run took 1.7 to 2.5 times as long, and cannot slim a depthwise convolution.

    Args:
        net: a slimmable network. It is not changed.
        path: the folder. It may hold an earlier export, which is then replaced, and nothing else.
        widths: fractions or plans, each once.
        example: an input [N, ...], a tuple of the arguments of forward, or a dict of them by name. The first dimension
            of every tensor is the batch, of any size in the files; arguments that are no tensors become constants.
        formats: any of the above.
        dynamic: further dimensions of the inputs that may have any size, with their names, for networks that take
            images of any size: `{2: "height", 3: "width"}`. Give a small example then; two and three times its
            size are run, too.
        fold: BatchNorm is folded into the layers that feed it (see `extract`).
        metrics: width -> {name: value}, written into the manifest.
        cascade: a `slimlib.Cascade` over these widths; its thresholds and the order of the files are written into the
            manifest. Widths that it leaves out may be exported, too.

    Returns:
        The contents of the manifest.

    Raises:
        ValueError: `net` computes more than the slimmable network in it; no list of widths, one that is not allowed, or
            one twice; an example that does not fit; a network that torch.export cannot follow or save, or ONNX has no
            operator for; a folder that holds something else.
        UncalibratedWidth: a width has no BatchNorm statistics.
        ImportError: onnx, onnxruntime or onnxscript are missing.
        OSError: the folder cannot be written.
        RuntimeError: the outputs of a file differ from torch's.
    """
    request = Request.of(
        net,
        widths,
        example,
        formats=formats,
        dynamic=dynamic or {},
        fold=fold,
        metrics=metrics or {},
        cascade=cascade,
    )
    run_trials(request.unfolded(widths[0]), request.inputs)  # what cannot run fails before anything is written
    with new_folder(as_path(path)) as folder:
        written = [_write_width(request, place, folder) for place in range(len(widths))]
        joined = _write_any_width(request, written, folder) if ANY_WIDTH in formats else None
        manifest = _manifest(request, written, joined)
        manifest.write(folder)
    return manifest


@dataclass(frozen=True)
class _Written:
    """One width: what the manifest says of it, how it was followed, what must come out, and its ONNX model, if any."""

    entry: Entry
    program: Program
    trials: Sequence[Trial]
    model: ModelProto | None


def _write_width(request: Request, place: int, folder: Path) -> _Written:
    width = request.widths[place]
    stem = f"plan-{place}" if isinstance(width, WidthPlan) else f"width-{float(width)}"
    plain = request.plain(width)
    trials = run_trials(plain, request.inputs)
    program = trace(plain, request.inputs, trials[0].tree)
    model, files = None, {}
    if TORCH in request.formats:
        files[TORCH] = write_program(program, folder / f"{stem}.pt2", trials)
    if request.needs_onnx:
        model = onnx_file.convert(program, plain)
    if model is not None and ONNX in request.formats:
        files[ONNX] = onnx_file.write(model, folder / f"{stem}.onnx", [(trial, {}) for trial in trials])
    needs = cost(plain, request.inputs.sized({0: 1}))
    entry = Entry(
        width=width,
        channels=request.slimming.channels_at(width),
        macs=needs.macs,
        params=needs.params,
        metrics=dict(request.metrics.get(width, {})),
        files=files,
    )
    return _Written(entry, program, trials, model)


def _write_any_width(request: Request, written: Sequence[_Written], folder: Path) -> File:
    models = [one.model for one in written if one.model is not None]
    runs = [
        (trial, {any_width.INDEX: torch.tensor(place)}) for place, one in enumerate(written) for trial in one.trials
    ]
    return onnx_file.write(any_width.join(models, request.slimming, request.widths), folder / "any-width.onnx", runs)


def _cascade(request: Request, cascade: Cascade, written: Sequence[_Written]) -> CascadeEntry:
    """The files that run, up to the first that takes every answer."""
    kind = ONNX if ONNX in request.formats else TORCH
    places, thresholds = [], []
    for stage in cascade.stages():
        places.append(list(request.widths).index(cascade.widths[stage]))
        if stage == len(cascade.thresholds) or cascade.thresholds[stage] == -math.inf:
            break
        thresholds.append(cascade.thresholds[stage])
    files = tuple(written[place].entry.files[kind].name for place in places)
    return CascadeEntry(tuple(places), files, tuple(thresholds), str(cascade.confidence))


def _manifest(request: Request, written: Sequence[_Written], joined: File | None) -> Manifest:
    from slimlib import __version__

    first = written[0]
    packages = ("torch", "onnx", "onnxruntime", "onnxscript") if request.needs_onnx else ("torch",)
    return Manifest(
        network=type(request.slimming.net()).__name__.removeprefix("Slim"),
        inputs=first.program.inputs,
        outputs=first.program.outputs,
        widths=tuple(one.entry for one in written),
        any_width=joined,
        cascade=None if request.cascade is None else _cascade(request, request.cascade, written),
        opset=None if first.model is None else onnx_file.opset_of(first.model),
        versions={"slimlib": __version__} | {name: version(name) for name in packages},
    )
