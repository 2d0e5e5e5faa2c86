"""Sets of images that are decoded when they are read: from files, from a zip, from one long array of JPEGs."""

from __future__ import annotations

import io
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tasks.pixels import UNREADABLE, pixels, size


class EncodedImages(ABC):
    """Labelled images that are decoded at each reading.

    Args:
        name: for captions and messages.
        classes: their names.
        labels: int64 [n].
    """

    def __init__(self, name: str, classes: Sequence[str], labels: Tensor) -> None:
        self.name = name
        self.classes = tuple(classes)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def open(self, index: int) -> BinaryIO:
        """The encoded image."""

    @abstractmethod
    def where(self, index: int) -> str:
        """Its file, for messages."""

    def read(self, index: int) -> Tensor:
        """One image, uint8 [3, H, W].

        Raises:
            ValueError: it cannot be read.
        """
        return self.read_at_least(index, 0)

    def read_at_least(self, index: int, side: int) -> Tensor:
        """One image, whose shorter side may be less than that of the file, but not less than `side`.

        Only JPEGs of twice that size and more are decoded smaller: then two to four times as fast, and with slightly
        other pixels than those of decoding and resizing.

        Raises:
            ValueError: it cannot be read.
        """
        try:
            with self.open(index) as file:
                return decode(file, side)
        except UNREADABLE as error:
            raise self._unreadable(index, error) from error

    @cached_property
    def side(self) -> int | None:
        """The height and width of all images, from their headers; None as soon as one differs or is not square.

        Raises:
            ValueError: an image cannot be read.
        """
        side = None
        for index in range(len(self)):
            try:
                with self.open(index) as file:
                    height, width = image_size(file)
            except UNREADABLE as error:
                raise self._unreadable(index, error) from error
            if height != width or height != (side or height):
                return None
            side = height
        return side

    def _unreadable(self, index: int, error: Exception) -> ValueError:
        first = (str(error) or type(error).__name__).splitlines()[0]
        return ValueError(f"cannot read the image {self.where(index)}: {first}")


class FileImages(EncodedImages):
    """An image a file.

    Args:
        folder: that the paths start from.
        paths: bytes [n]. One array rather than a million strings: worker processes share its memory, whereas the
            reference counts of strings would have each worker copy them.
    """

    def __init__(self, name: str, classes: Sequence[str], labels: Tensor, *, folder: Path, paths: np.ndarray) -> None:
        super().__init__(name, classes, labels)
        self.folder = folder
        self.paths = paths

    def open(self, index: int) -> BinaryIO:
        """The file."""
        return open(self.where(index), "rb")

    def where(self, index: int) -> str:
        """Its path."""
        return os.path.join(self.folder, os.fsdecode(self.paths[index]))


class ZipImages(EncodedImages):
    """Images inside a zip, which is not unpacked.

    Args:
        archive: the zip.
        members: the name of each image in it.
    """

    def __init__(
        self, name: str, classes: Sequence[str], labels: Tensor, *, archive: Path, members: Sequence[str]
    ) -> None:
        super().__init__(name, classes, labels)
        self.archive = archive
        self.members = members
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def open(self, index: int) -> BinaryIO:
        """The content of a member."""
        return io.BytesIO(self._zip().read(self.members[index]))

    def where(self, index: int) -> str:
        """The archive and the member."""
        return f"{self.archive}/{self.members[index]}"

    def _zip(self) -> zipfile.ZipFile:
        # Worker processes must not share one open file: they would move each other's place in it.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), zipfile.ZipFile(self.archive))
        return self._opened[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}


class JoinedImages(EncodedImages):
    """Images whose files are joined in one array.

    Args:
        path: of the file that the array is from, for messages.
        content: all files, one after another, uint8.
        offsets: where each begins, and where the last ends: int64 [n + 1].
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        labels: Tensor,
        *,
        path: Path,
        content: np.ndarray,
        offsets: np.ndarray,
    ) -> None:
        super().__init__(name, classes, labels)
        self.path = path
        self.content = content
        self.offsets = offsets

    def open(self, index: int) -> BinaryIO:
        """The bytes of one image."""
        return io.BytesIO(self.content[self.offsets[index] : self.offsets[index + 1]].tobytes())

    def where(self, index: int) -> str:
        """The file and the number of the image."""
        return f"{self.path} (number {index} of {self.name})"


def decode(file: BinaryIO, at_least: int = 0) -> Tensor:
    """Decode an image (see `tasks.pixels`); grey becomes three equal channels.

    Args:
        file: opened for reading.
        at_least: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its shorter side
            keeps this many pixels; 0: at its size.

    Returns:
        uint8 [3, H, W]. It is not contiguous: its memory is that of the decoder, [H, W, 3].

    Raises:
        One of `tasks.pixels.UNREADABLE`: the file is no image, is damaged, or holds floating-point pixels.
    """
    with Image.open(file) as image:
        if at_least:
            image.draft(None, (at_least, at_least))  # None: in the mode it has
        decoded = torch.from_numpy(pixels(image))
    return decoded.expand(3, -1, -1) if decoded.dim() == 2 else decoded.permute(2, 0, 1)


def image_size(file: BinaryIO) -> tuple[int, int]:
    """(height, width) from the header (see `tasks.pixels.size`); raises as `decode` does."""
    with Image.open(file) as image:
        return size(image)
