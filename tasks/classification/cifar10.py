"""CIFAR-10 in each form that it is passed around in."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slimlib.core.allowed_arrays import ARRAYS
from slimlib.core.unpickling import Refused, unpickle
from tasks.classification.encoded import JoinedImages
from tasks.classification.images import DecodedImages, LabelledImages

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
COUNTS = {"train": 50_000, "test": 10_000}

FORMS = (
    "cifar-10-batches-py",
    "cifar-10-python.tar.gz",
    "cifar-10-batches-bin",
    "cifar-10-binary.tar.gz",
    "cifar10_jpg.npz",
)
"""In the order of preference, where a folder holds several."""

_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
_PARTS = ("jpeg", "offsets", "labels")
_BROKEN_ARCHIVE = (OSError, EOFError, zlib.error, tarfile.TarError)
_BROKEN_NPZ = (OSError, EOFError, zlib.error, zipfile.BadZipFile, KeyError, ValueError)


def read_cifar10(root: Path) -> tuple[LabelledImages, LabelledImages]:
    """The training and the test images.

    Args:
        root: one of the files or folders in `FORMS`, by whatever name, or a folder that holds one.

    Returns:
        Sets whose name says so if they are not the original pixels.

    Raises:
        ValueError: there is none, or it is damaged, incomplete, or holds more than numbers.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, ch. 3.
    """
    place = find_cifar10(root)
    if place is None:
        raise ValueError(
            f"data.root={root} holds no CIFAR-10 ({', '.join(FORMS)}); put cifar-10-python.tar.gz of "
            "https://www.cs.toronto.edu/~kriz/cifar.html there, packed or unpacked"
        )
    if place.suffix == ".npz":
        return _jpeg_copy(place)
    files = _batch_files(place)
    train, test = (_from_batches(place, split, files) for split in COUNTS)
    return train, test


def find_cifar10(root: Path) -> Path | None:
    """The form that is read: `root` itself or what it holds; None where there is none."""
    if root.is_file() or any((root / f"data_batch_1{ending}").exists() for ending in ("", ".bin")):
        return root
    return next((root / form for form in FORMS if (root / form).exists()), None)


def _batch_files(place: Path) -> dict[str, bytes]:
    """The batches by file name; an archive is read in place."""
    wanted = {name + ending for names in _BATCHES.values() for name in names for ending in ("", ".bin")}
    if place.is_dir():
        return {name: (place / name).read_bytes() for name in wanted if (place / name).is_file()}
    files = {}
    try:
        with tarfile.open(place) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in wanted and (file := archive.extractfile(member)) is not None:
                    files[name] = file.read()
    except _BROKEN_ARCHIVE as error:
        raise ValueError(f"the archive {place} is damaged ({_first_line(error)}); download it again") from error
    return files


def _from_batches(place: Path, split: str, files: Mapping[str, bytes]) -> LabelledImages:
    pixels, labels = [], []
    for batch in _BATCHES[split]:
        if batch in files:
            some_pixels, some_labels = _python_batch(files[batch], f"{place}: {batch}")
        elif f"{batch}.bin" in files:
            some_pixels, some_labels = _binary_batch(files[f"{batch}.bin"], f"{place}: {batch}.bin")
        else:
            raise ValueError(f"{place} lacks {batch} of CIFAR-10; download and unpack it again")
        pixels.append(some_pixels)
        labels.append(some_labels)
    all_labels = np.concatenate(labels)
    _check(place, split, all_labels)
    images = torch.from_numpy(np.concatenate(pixels)).view(-1, 3, SIDE, SIDE)
    return DecodedImages("CIFAR-10", CLASSES, images, torch.from_numpy(all_labels))


def _python_batch(content: bytes, place: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [n, 3072] and labels int64 [n] of a pickled dict."""
    batch = _unpickled(content, place)
    named: dict[Any, Any] = batch if isinstance(batch, dict) else {}
    named = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in named.items()}
    pixels, labels = named.get("data"), named.get("labels")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * SIDE**2,):
        raise ValueError(f"{place} has no 'data' of bytes, 3072 for each image; is it a batch of CIFAR-10?")
    if not isinstance(labels, list) or not all(isinstance(n, int) for n in labels) or len(labels) != len(pixels):
        raise ValueError(f"{place} has no 'labels', a whole number for each image; is it a batch of CIFAR-10?")
    return pixels, np.array(labels, dtype=np.int64)


def _unpickled(content: bytes, place: str) -> Any:
    """What a pickle holds, also one of Python 2, whose strings are returned as bytes."""
    try:
        return unpickle(content, ARRAYS, encoding="bytes")
    except Refused as refused:
        raise ValueError(
            f"{place} was refused: it asks for what no array needs and what could run code (it {refused}). "
            "Download the file again from where it was published."
        ) from None
    except Exception as error:  # a damaged pickle shows as nearly any exception
        raise ValueError(f"{place} is damaged ({type(error).__name__}); download it again") from error


def _binary_batch(content: bytes, place: str) -> tuple[np.ndarray, np.ndarray]:
    """The same of records of a label and its pixels, a byte each."""
    record = 1 + 3 * SIDE**2
    if len(content) % record:
        raise ValueError(f"{place} has {len(content)} bytes, not a multiple of {record}; download it again")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _jpeg_copy(path: Path) -> tuple[LabelledImages, LabelledImages]:
    try:
        with np.load(path, allow_pickle=False) as opened:
            arrays = {f"{split}_{part}": opened[f"{split}_{part}"] for split in COUNTS for part in _PARTS}
    except _BROKEN_NPZ as error:
        raise ValueError(f"cannot read CIFAR-10 from {path}: {_first_line(error)}; get the file again") from error
    train, test = (_joined(path, split, arrays) for split in COUNTS)
    return train, test


def _joined(path: Path, split: str, arrays: Mapping[str, np.ndarray]) -> LabelledImages:
    content, offsets, labels = (arrays[f"{split}_{part}"] for part in _PARTS)
    offsets, labels = offsets.astype(np.int64), labels.astype(np.int64)
    if len(offsets) != len(labels) + 1 or (np.diff(offsets) <= 0).any() or offsets[-1] != len(content):
        raise ValueError(f"{path} is damaged: its {split}_offsets do not fit the images; get the file again")
    _check(path, split, labels)
    name = "CIFAR-10 (JPEG-recompressed copy)"
    images = JoinedImages(name, CLASSES, torch.from_numpy(labels), path=path, content=content, offsets=offsets)
    images.side = SIDE  # known, and so not read from 60,000 headers
    return images


def _check(place: Path, split: str, labels: np.ndarray) -> None:
    if len(labels) != COUNTS[split]:
        raise ValueError(f"{place} has {len(labels)} {split} images; CIFAR-10 has {COUNTS[split]}")
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ValueError(f"{place} has {split} labels from {labels.min()} to {labels.max()}; CIFAR-10 has 0 to 9")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
