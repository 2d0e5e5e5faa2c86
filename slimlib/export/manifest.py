"""The manifest beside exported files: what each is, what it costs, and whether it was changed since."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slimlib.core.whole_file import as_path
from slimlib.core.width import Width, WidthPlan

FORMAT = 1
NAME = "manifest.json"


@dataclass(frozen=True)
class File:
    """A file in the folder of the manifest."""

    name: str
    bytes: int
    sha256: str

    @staticmethod
    def of(path: Path) -> File:
        return File(path.name, path.stat().st_size, _sha256(path))


@dataclass(frozen=True)
class Value:
    """An input or output. A size that is free has a name ("batch"), or is computed from one ("2*height")."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class Entry:
    """One width: `channels` of each group of layers, cost of one sample as large as the example, files by format."""

    width: Width
    channels: tuple[int, ...]
    macs: int
    params: int
    metrics: Mapping[str, float]
    files: Mapping[str, File]


@dataclass(frozen=True)
class CascadeEntry:
    """How the files answer one after another, narrow first.

    Attributes:
        widths: places in `Manifest.widths`, in the order in which they run.
        files: the name of each one's file.
        thresholds: for each but the last, the confidence from which its answer is taken.
        confidence: "max_probability", "margin" or "entropy" of the first output, scores [batch, classes].
    """

    widths: tuple[int, ...]
    files: tuple[str, ...]
    thresholds: tuple[float, ...]
    confidence: str


@dataclass(frozen=True)
class Manifest:
    """What `export` wrote.

    Attributes:
        network: the class of the network.
        inputs, outputs: of every file; `any_width` has one more input, `width_index`.
        widths: in the order that they were asked for.
        any_width: the one ONNX file that runs at all of them; its `width_index` is the place in `widths`.
        cascade: how files are run one after another; None: by themselves.
        opset: of the ONNX files.
        versions: of the packages that wrote them.
    """

    network: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    widths: tuple[Entry, ...]
    any_width: File | None
    cascade: CascadeEntry | None
    opset: int | None
    versions: Mapping[str, str]

    @property
    def files(self) -> Iterator[File]:
        for entry in self.widths:
            yield from entry.files.values()
        if self.any_width is not None:
            yield self.any_width

    def write(self, folder: Path) -> None:
        """Write `manifest.json`. The width of a plan is null there, as its channels say it."""
        data = {"format": FORMAT} | asdict(self)
        for plain, entry in zip(data["widths"], self.widths, strict=True):
            plain["width"] = None if isinstance(entry.width, WidthPlan) else float(entry.width)
        (folder / NAME).write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_manifest(path: str | Path, *, verify: bool = True) -> Manifest:
    """Read the manifest in a folder that `export` wrote.

    Args:
        path: the folder.
        verify: compare the files with the hashes that were noted.

    Raises:
        ValueError: there is no manifest of slimlib, or (if verified) a file is missing or was changed; it is named.
    """
    folder = as_path(path)
    try:
        data = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"{folder / NAME} is of format {data['format']!r}; this slimlib reads format {FORMAT}")
        manifest = _from_json(data)
    except (OSError, TypeError, KeyError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} has no manifest that slimlib.export wrote ({error})") from None
    if verify:
        for file in manifest.files:
            _verify(folder, file)
    return manifest


def _from_json(data: Mapping[str, Any]) -> Manifest:
    return Manifest(
        network=data["network"],
        inputs=tuple(_value(value) for value in data["inputs"]),
        outputs=tuple(_value(value) for value in data["outputs"]),
        widths=tuple(_entry(entry) for entry in data["widths"]),
        any_width=None if data["any_width"] is None else File(**data["any_width"]),
        cascade=None if data.get("cascade") is None else _cascade(data["cascade"]),
        opset=data["opset"],
        versions=dict(data["versions"]),
    )


def _cascade(data: Mapping[str, Any]) -> CascadeEntry:
    return CascadeEntry(tuple(data["widths"]), tuple(data["files"]), tuple(data["thresholds"]), str(data["confidence"]))


def _value(data: Mapping[str, Any]) -> Value:
    return Value(data["name"], tuple(data["shape"]), data["dtype"])


def _entry(data: Mapping[str, Any]) -> Entry:
    channels = tuple(data["channels"])
    return Entry(
        width=WidthPlan(channels) if data["width"] is None else data["width"],
        channels=channels,
        macs=data["macs"],
        params=data["params"],
        metrics=dict(data["metrics"]),
        files={name: File(**file) for name, file in data["files"].items()},
    )


def _verify(folder: Path, file: File) -> None:
    path = folder / file.name
    if not path.is_file():
        raise ValueError(f"{folder}: {file.name} is missing, which its manifest names")
    if path.stat().st_size != file.bytes or _sha256(path) != file.sha256:
        raise ValueError(f"{path} is not the file that was exported: its sha256 differs from the manifest's")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
