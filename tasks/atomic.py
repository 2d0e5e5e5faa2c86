"""Files are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from slimlib.core.whole_file import usual_rights

try:
    import fcntl
except ImportError:  # Windows, where a file that another process has open cannot be removed
    fcntl = None  # type: ignore[assignment]


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, a crash or a full disk never leaves half of it.

    A temporary file beside it is written, flushed to the disk and renamed. If that fails, the
    temporary file is removed and what was there before stays. A killed process leaves its temporary
    file to `remove_stale`.

    Raises:
        OSError: the disk is full or the place cannot be written; the message names the file.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _temporary(path)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, usual_rights())
            if fcntl is None:  # Windows, again, renames no open file
                file.close()
            os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
        raise


def remove_stale(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder, and none that a living one still writes."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):  # it is held by its writer, or gone already
            handle = os.open(path, os.O_RDWR)
            try:
                if fcntl is not None:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            finally:
                os.close(handle)
            if fcntl is None:
                path.unlink()


def _temporary(path: Path) -> tuple[int, str]:
    """A new file beside `path`, locked until it is closed: the system frees the lock of a process that is killed."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        if fcntl is None:
            return handle, name
        with suppress(OSError):  # a file system without locks: there `remove_stale` removes nothing
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)  # `remove_stale` was quicker than the lock
