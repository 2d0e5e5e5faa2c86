"""A file that appears whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write, which becomes `path` when the block ends; on an error, what was there before stays.

    Raises:
        OSError: it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-", suffix=".part") as folder:
            written = Path(folder, path.name)
            written.touch()
            rights = stat.S_IMODE(written.stat().st_mode)  # of any file of this user; the folder alone is private
            yield written
            written.chmod(rights)  # safetensors takes those of others away
            with open(written, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(written, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
