"""Checkpoints of a training run: written whole, and read without running any code that is in them."""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import stat
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tasks.atomic import write_atomically

SEAL = b"\nsha256 "
"""Before the checksum at the end of the file, which readers of archives pass over."""


class HostileCheckpointError(Exception):
    """A checkpoint holds a pickle that would run code when loaded."""


class Spent:
    """The time that a run takes, which begins now; of what was stopped, up to the checkpoint that it goes on from."""

    def __init__(self) -> None:
        self.before = 0.0
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Up to now."""
        return self.before + max(0.0, time.monotonic() - self._began)  # the clock may have been set back


class Checkpoint:
    """The one checkpoint file of a run.

    Args:
        path: of the file; it need not exist.
        identity: of the run; the checkpoint of another run is not taken up.
        every: seconds between two checkpoints.
        spent: by the run; its checkpoints share one.
        warn: called with what a user should know.
    """

    def __init__(
        self,
        path: Path,
        identity: str,
        *,
        every: float = 60.0,
        spent: Spent | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.path = path
        self.identity = identity
        self.every = every
        self.spent = spent or Spent()
        self.warn = warn
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next one: also where the clock was set back."""
        return not 0 <= time.monotonic() - self._last < self.every

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace the file by one with this state: plain values, lists and tensors.

        Raises:
            OSError: it cannot be written; the one before is intact.
        """
        buffer = io.BytesIO()
        torch.save({"identity": self.identity, "seconds": self.spent.seconds, "state": dict(state)}, buffer)
        buffer.write(SEAL + hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
        write_atomically(self.path, buffer.getvalue())
        self._last = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The state, or None if there is no usable checkpoint.

        A file that cannot be read is set aside as `<name>.corrupt` with a warning.

        Raises:
            HostileCheckpointError: the file would run code; nothing of it was run.
            OSError: there is a file, and it cannot be read.
        """
        data = self._content()
        if data is None:
            return None
        try:
            _check_seal(data)
            with warnings.catch_warnings(action="ignore"):  # of what it then refuses
                content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            if content["identity"] != self.identity:
                raise ValueError("it belongs to another run")
            state = content["state"]
            if not isinstance(state, dict):
                raise TypeError("it holds no state")
            # Of several checkpoints of a run the later one has the time of the earlier in it.
            self.spent.before = max(self.spent.before, float(content.get("seconds", 0.0)))
            return state
        except Exception as error:  # any damage shows as some exception of the unpickler, the zip reader or torch
            if isinstance(error, pickle.UnpicklingError) and _is_whole(data):
                raise HostileCheckpointError(
                    f"checkpoint {self.path} holds more than numbers and would run code when loaded; "
                    "it was refused. Delete it to train this recipe from the beginning."
                ) from None
            self.set_aside(error)
            return None

    def _content(self) -> bytes | None:
        try:
            if stat.S_ISREG(self.path.stat().st_mode):  # a pipe would be waited for
                return self.path.read_bytes()
        except OSError as error:
            if isinstance(error, FileNotFoundError) or not self.path.exists():  # also a link that leads nowhere
                return None
            raise OSError(error.errno, f"cannot read {self.path.name}: {error.strerror}") from error
        self.set_aside(TypeError("it is no file"))
        return None

    def set_aside(self, reason: Exception) -> None:
        """Rename a checkpoint that cannot be used, and warn."""
        aside = self.path.with_name(self.path.name + ".corrupt")
        with suppress(FileNotFoundError):  # a run of another ablation, which shares it, was quicker
            self.path.replace(aside)
        first = (str(reason) or type(reason).__name__).splitlines()[0][:120]
        self.warn(f"checkpoint {self.path} cannot be used ({first}); set aside as {aside.name}, training starts again")

    def remove(self) -> None:
        """Delete the file: the run is finished and recorded."""
        self.path.unlink(missing_ok=True)


def _check_seal(data: bytes) -> None:
    """Raise ValueError where a byte has changed since the file was written: torch does not look at checksums."""
    end = len(data) - len(SEAL) - 64
    sealed = data[max(end, 0) : end + len(SEAL)] == SEAL  # one that was cut off does not load
    if sealed and hashlib.sha256(memoryview(data)[:end]).hexdigest().encode() != data[-64:]:
        raise ValueError("its content has changed since it was written")


def _is_whole(data: bytes) -> bool:
    """Whether the file is an undamaged pickle or zip: then it was refused for what is in it."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.testzip() is None
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(data))
    except Exception:  # genops raises whatever its readers do
        return False
