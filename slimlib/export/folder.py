"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimlib.export.manifest import NAME, read_manifest


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, that becomes `path` when the block ends, in place of an earlier export; gone on an error.

    Raises:
        ValueError: `path` is there and no export, or holds what no export wrote.
        OSError: it cannot be written.
    """
    final = path.resolve()
    _check_replaceable(path, final)
    above = next(parent for parent in final.parents if parent.exists())
    if not above.is_dir():
        raise ValueError(f"{path} cannot be a folder, as {above} is a file")
    try:
        temporary = Path(tempfile.mkdtemp(dir=above, prefix=f".{final.name}-", suffix=".part"))
    except OSError as error:
        raise OSError(error.errno, f"cannot write the export {path}: {error.strerror}") from error
    try:
        whole = temporary / "whole"
        whole.mkdir()  # with the rights of any folder, which `temporary` has not
        yield whole
        for file in whole.iterdir():
            _flush(file)
        final.parent.mkdir(parents=True, exist_ok=True)
        _replace(final, whole, temporary / "old")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(path: Path, final: Path) -> None:
    if not final.exists():
        return
    if not final.is_dir():
        raise ValueError(f"{path} is a file; export writes a folder")
    try:
        manifest = read_manifest(final, verify=False)
        ours = {NAME} | {file.name for file in manifest.files}
    except ValueError:
        ours = set()
    strange = sorted({entry.name for entry in final.iterdir()} - ours)
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise ValueError(
            f"{path} holds {', '.join(strange[:3])}{more}, which no export wrote; give a new folder, or empty this one"
        )


def _flush(file: Path) -> None:
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())


def _replace(final: Path, whole: Path, aside: Path) -> None:
    """Put `whole` in the place of an earlier export, which comes back if that fails."""
    earlier = final.exists()
    if earlier:
        os.replace(final, aside)
    try:
        os.replace(whole, final)
    except OSError:
        if earlier:
            os.replace(aside, final)
        raise
