"""Small files in the layouts that people keep images in, written by the tests; and where the real ones are."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from tasks.classification import cifar10, imagenette

REPOSITORY = Path(__file__).resolve().parents[3]


def real_data(name: str) -> Path:
    """A folder or file of the real images; skips the test where it is not on this machine."""
    data = Path(os.environ.get("SLIM_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (data / name).exists():
        pytest.skip(f"no {name} in {data}; set SLIM_DATA to the folder that holds it")
    return data / name


def draw(path: Path, height: int = 8, width: int = 8, *, seed: int = 0) -> np.ndarray:
    """Write a random image; returns its pixels, [H, W, 3]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def touch(root: Path, *names: str) -> Path:
    """Make empty files below a folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


class CifarFiles:
    """A small CIFAR-10: 5 batches of 4 training images, and 3 test images; `write` puts it in any of its forms."""

    counts: Mapping[str, int] = {"train": 20, "test": 3}

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.pixels = {split: rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for split, n in self.counts.items()}
        self.labels = {split: rng.integers(0, 10, n) for split, n in self.counts.items()}

    def batches(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Pixels [n, 3072] and labels [n] of each batch, by its name."""
        flat = {split: pixels.reshape(len(pixels), -1) for split, pixels in self.pixels.items()}
        found = {"test_batch": (flat["test"], self.labels["test"])}
        for i in range(5):
            some = slice(4 * i, 4 * i + 4)
            found[f"data_batch_{i + 1}"] = flat["train"][some], self.labels["train"][some]
        return found

    def files(self, kind: str) -> dict[str, bytes]:
        """Content of the batch files: "python", "python2" (as Python 2 wrote them) or "binary"."""
        found = {}
        for name, (pixels, labels) in self.batches().items():
            if kind == "binary":
                found[f"{name}.bin"] = np.column_stack([labels.astype(np.uint8), pixels]).tobytes()
            else:
                batch = {b"data": pixels, b"labels": labels.tolist(), b"batch_label": b"one", b"filenames": [b"a.png"]}
                found[name] = as_python2(batch) if kind == "python2" else pickle.dumps(batch)
        return found

    def write(self, root: Path, form: str) -> Path:
        """One of `cifar10.FORMS`; returns its path."""
        if form.endswith(".npz"):
            np.savez(root / form, **self._jpegs())  # type: ignore[arg-type]
            return root / form
        kind = "binary" if "bin" in form else "python2"
        files = self.files(kind) | {"batches.meta": b"", "readme.html": b"<html>"}
        if form.endswith(".tar.gz"):
            write_tar(root / form, {f"cifar-10-batches/{name}": content for name, content in files.items()})
        else:
            (root / form).mkdir()
            for name, content in files.items():
                (root / form / name).write_bytes(content)
        return root / form

    def _jpegs(self) -> dict[str, np.ndarray]:
        arrays = {"classes": np.array(cifar10.CLASSES)}
        for split, pixels in self.pixels.items():
            encoded = [as_jpeg(image.transpose(1, 2, 0)) for image in pixels]
            arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
            arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, encoded)])
            arrays[f"{split}_labels"] = self.labels[split].astype(np.uint8)
        return arrays


def as_jpeg(pixels: np.ndarray) -> bytes:
    """[H, W, 3] -> JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    """A .tar.gz of these files."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_imagenette(root: Path, split: str, *, zipped: bool, prefix: str = "") -> None:
    """Two images of each class: in root/split, or in the zip imagenette64_<split>.zip."""
    folder = root / (f"unpacked-{split}" if zipped else split)
    for number, wnid in enumerate(imagenette.CLASSES):
        for i in range(2):
            draw(folder / wnid / f"{i}.JPEG", seed=10 * number + i)
    if zipped:
        with zipfile.ZipFile(root / f"imagenette64_{split}.zip", "w") as archive:
            for path in sorted(folder.rglob("*.JPEG"), reverse=True):
                archive.write(path, f"{prefix}{path.parent.name}/{path.stem}.jpg")


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes bytes as the `str` of Python 2, and the modules under the names that NumPy had then."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def as_python2(value: Any) -> bytes:
    """A pickle as Python 2 and an old NumPy would have written it."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2, fix_imports=True).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
