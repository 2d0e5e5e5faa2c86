"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from tasks.atomic import write_atomically


def test_written_content_is_read_back(tmp_path: Path) -> None:
    write_atomically(tmp_path / "deep" / "file", "text")
    write_atomically(tmp_path / "deep" / "file", b"other")
    assert [(p.name, p.read_text()) for p in (tmp_path / "deep").iterdir()] == [("file", "other")]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=re.escape(f"cannot write {path}: No space left on device")):
        write_atomically(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]
