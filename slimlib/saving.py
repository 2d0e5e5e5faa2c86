"""Slimmable networks in files: safetensors, with the channel layout and the recipe inside."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from slimlib.core.apply import apply_layout
from slimlib.core.heads import Bounds
from slimlib.core.layout import Layout
from slimlib.core.setting import slimming_of, unwrapped, whole_network
from slimlib.core.statistics import is_private
from slimlib.core.whole_file import as_path, whole_file
from slimlib.core.width import Switches, WidthPlan, WidthRange, Widths

KEY = "slimlib"


def save(net: nn.Module, path: str | Path, recipe: Mapping[str, Any] | None = None) -> None:
    """Write a slimmable network: all weights, calibrated statistics, channel layout, widths, and a recipe.

    Args:
        net: a slimmable network.
        path: the file. It is written under another name and then renamed, so that it is never half written.
        recipe: how it was trained, anything that json can hold.

    Raises:
        ValueError: the recipe cannot be written as JSON, or `net` is more than a slimmable network.
        OSError: the file cannot be written.
    """
    slimming = whole_network(net)
    if recipe is not None and not isinstance(recipe, Mapping):
        raise ValueError(f"the recipe must be a dict of plain data, and is {recipe!r}")
    root = slimming.net()
    tensors, aliases = _unique(root.state_dict())
    try:
        about = json.dumps(
            {
                "layout": slimming.layout.to_json(),
                "widths": widths_to_json(slimming.widths),
                "norm": str(slimming.norm),
                "heads": slimming.heads,
                "trained": slimming.trained,
                "aliases": aliases,
                "recipe": dict(recipe or {}),
            }
        )
    except TypeError as error:
        raise ValueError(f"the recipe must be plain data (numbers, text, lists, dicts): {error}") from None
    with whole_file(as_path(path)) as file:
        try:
            save_file(tensors, file, metadata={KEY: about})
        except SafetensorError as error:  # of which the disk being full is one
            raise OSError(errno.EIO, str(error)) from error


@dataclass(frozen=True)
class _File:
    tensors: dict[str, Tensor]
    layout: Layout
    widths: Widths
    norm: Any
    heads: dict[str, Bounds]
    trained: tuple[int, ...] | None
    recipe: dict[str, Any]


def load(path: str | Path, into: nn.Module) -> nn.Module:
    """Read what `save` wrote into a dense network (which becomes slimmable) or an equal slimmable one.

    Args:
        path: the file.
        into: the network as it was before `convert`, or after; its weights are overwritten (created, if on the
            meta device).

    Returns:
        `into`, at its largest width.

    Raises:
        ValueError: the file is missing, was not written by `save`, or belongs to another network: the message
            names the layers that differ. `into` is then untouched.
        TypeError: the arguments are the other way round.
    """
    if isinstance(path, nn.Module):
        raise TypeError(f"slimlib.load takes the file first: slimlib.load({into!r}, into=net)")
    file = _read(as_path(path))
    given, into = into, unwrapped(into)
    slimmed = slimming_of(into) if "slim" in into.__dict__ else None
    if slimmed is not None and slimmed.layout != file.layout:
        raise ValueError(
            f"{path}: other channel layout than this network: {_first_difference(file.layout, slimmed.layout)}"
        )
    if slimmed is not None and (str(slimmed.norm), slimmed.widths) != (file.norm, file.widths):
        raise ValueError(
            f"{path}: saved with BatchNorm {file.norm} and widths {file.widths}; "
            f"this network has {slimmed.norm} and {slimmed.widths}. Load into a dense network instead"
        )
    if slimmed is not None and slimmed.heads != file.heads:
        raise ValueError(f"{path}: saved with other heads of bands of widths. Load into a dense network instead")
    _check_tensors(path, file.tensors, into.state_dict())
    if slimmed is None:
        apply_layout(into, file.layout, widths=file.widths, norm=file.norm, heads=file.heads)
    into.load_state_dict(file.tensors, assign=any(x.is_meta for x in into.state_dict().values()))
    slimming = slimming_of(into)
    slimming.trained = file.trained
    slimming.refresh()
    return given


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The recipe that was saved with a network.

    Raises:
        ValueError: the file is missing, or was not written by `save`.
    """
    return _read(as_path(path)).recipe


def _read(path: Path) -> _File:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path}: a safetensors file, but not one that slimlib.save wrote")
    try:
        return _file(tensors, about)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not as this slimlib.save writes it ({type(error).__name__}: {error})") from error


def _file(tensors: dict[str, Tensor], about: Mapping[str, Any]) -> _File:
    trained = about.get("trained")
    return _File(
        tensors | {alias: tensors[name] for alias, name in about["aliases"].items()},
        Layout.from_json(about["layout"]),
        widths_from_json(about["widths"]),
        about["norm"],
        {name: tuple(map(tuple, bounds)) for name, bounds in about.get("heads", {}).items()},
        None if trained is None else tuple(trained),
        about["recipe"],
    )


def _unique(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that are one in memory are written once; the other names point to the first."""
    first: dict[tuple[Any, ...], str] = {}
    tensors, aliases, storages = {}, {}, set()
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.detach().contiguous()
        if storage in storages:  # a part of another, or its transpose, which safetensors would refuse
            tensors[name] = tensors[name].clone()
        storages.add(storage)
    return tensors, aliases


def _check_tensors(path: Any, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    plain = {name: t for name, t in saved.items() if not is_private(name.rpartition(".")[2])}
    own = {name: t for name, t in own.items() if not is_private(name.rpartition(".")[2])}
    differ = [
        f"'{n}' is {list(plain[n].shape)} there, {list(own[n].shape)} here"
        for n in plain
        if n in own and plain[n].shape != own[n].shape
    ]
    differ += [f"'{n}' is only in the file" for n in plain if n not in own]
    differ += [f"'{n}' is only in this network" for n in own if n not in plain]
    if differ:
        more = f" (and {len(differ) - 3} more)" if len(differ) > 3 else ""
        raise ValueError(f"{path} belongs to another network: {'; '.join(differ[:3])}{more}")


def _first_difference(saved: Layout, own: Layout) -> str:
    for a, b in zip(saved.groups, own.groups, strict=False):
        if a != b:
            there, here = (f"'{g.name}' with {g.units} channels, divisor {g.divisor}" for g in (a, b))
            return f"{there} there; {here} here"
    names = sorted(set(saved.axes) ^ set(own.axes))
    return (
        f"'{names[0]}' slims in only one of them"
        if names
        else f"{len(saved.groups)} groups there, {len(own.groups)} here"
    )


def widths_to_json(widths: Widths) -> dict[str, Any]:
    """Widths as plain data for JSON; `widths_from_json` reads it."""
    if isinstance(widths, WidthRange):
        return {"range": [widths.smallest, widths.largest]}
    return {"switches": [list(w.channels) if isinstance(w, WidthPlan) else w for w in widths.widths]}


def widths_from_json(data: Mapping[str, Any]) -> Widths:
    """The widths that `widths_to_json` wrote."""
    if "switches" not in data:
        return WidthRange(*data["range"])
    return Switches(*(WidthPlan(w) if isinstance(w, list) else w for w in data["switches"]))
