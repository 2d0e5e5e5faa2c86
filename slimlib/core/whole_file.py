"""A file that appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def as_path(path: object) -> Path:
    """What was given as the place of a file or folder.

    Raises:
        TypeError: it is something else than a name.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"the path must be a str or a Path, and is {path!r}"[:200])
    return Path(path)


def usual_rights() -> int:
    """The mode of any new file of this process."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write, which becomes `path` when the block ends; on an error, what was there before stays.

    Raises:
        OSError: it cannot be written.
    """
    part: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".part")
        os.close(handle)
        part = Path(name)
        yield part
        part.chmod(usual_rights())  # mkstemp and safetensors give fewer
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        if part is not None:
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
        raise
