"""Reading the tensors of a checkpoint from elsewhere: nothing in the file is run, and all of it is checked."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LARGEST = 2**30  # bytes of a checkpoint in a zip; the published ones have less than 150 MB
PREFIX = "module."  # of every key, from the data-parallel training of the authors


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.pt`, or in a zip around one, without the prefix `module.` of its keys.

    Raises:
        ValueError: no such file, or it holds anything but a state dict of ordinary tensors, itself or under "model".
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    content = _load(path)
    if isinstance(content, Mapping) and "model" in content:
        content = content["model"]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            f"{path}: holds {_kind(content)} where a state dict is expected, as it is or under the key 'model'"
        )
    for name, value in content.items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: the state dict has a key that is no text, but {_kind(name)}")
        if (wrong := _no_plain_tensor(value)) and not name.endswith("num_batches_tracked"):
            raise ValueError(f"{path}: '{name}' is {wrong}, and must be an ordinary tensor of floating point numbers")
    prefixed = all(name.startswith(PREFIX) for name in content)
    return {name.removeprefix(PREFIX) if prefixed else name: value for name, value in content.items()}


def _load(path: Path) -> Any:
    inner = _inner(path)
    try:
        if inner is None:
            return torch.load(path, map_location="cpu", weights_only=True)
        with zipfile.ZipFile(path) as archive:
            return torch.load(io.BytesIO(archive.read(inner)), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"'{code[1]}'" if code else "something"
        raise ValueError(
            f"{path}: refused, as it holds more than tensors ({what} would be run, or the file is damaged); "
            "nothing of it was run. Take the file that the authors released"
        ) from None
    except Exception as error:  # a damaged file fails in torch wherever it likes
        text = (str(error).strip().splitlines() or [""])[0][:120]
        raise ValueError(f"{path}: cannot be read as a checkpoint ({type(error).__name__}: {text})") from None


def _inner(path: Path) -> zipfile.ZipInfo | None:
    """The one `.pt` in a zip; None where the file is the checkpoint, which is a zip of other things today."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return None
    if any(m.filename.endswith("data.pkl") for m in members):
        return None
    inner = [m for m in members if m.filename.endswith(".pt") and not m.filename.startswith("__MACOSX/")]
    if len(inner) != 1:
        raise ValueError(f"{path}: a zip with {len(inner)} .pt files in it; it must hold one checkpoint")
    if inner[0].file_size > LARGEST:
        raise ValueError(f"{path}: '{inner[0].filename}' in it unpacks to {inner[0].file_size:,} bytes, too many")
    return inner[0]


def _no_plain_tensor(value: Any) -> str | None:
    """What is wrong with a value of a state dict; None for a tensor that may be read."""
    if not isinstance(value, Tensor):
        return _kind(value)
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        return "a tensor of another layout or without values"
    if not value.is_floating_point():
        return f"a tensor of {value.dtype}"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"a tensor {list(value.shape)} of fewer values than that"
    return None


def _kind(value: Any) -> str:
    return f"an empty {type(value).__name__}" if value in ({}, (), []) else f"a {type(value).__name__}"
