"""Where a result comes from: versions, commit and the class of machine, never its name."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch


def versions() -> dict[str, str]:
    """Of what computes."""
    import slimlib

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "slimlib": getattr(slimlib, "__version__", "unknown"),
    }


def commit() -> str | None:
    """The commit of this repository, with `-dirty` where files differ from it; None outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def host_class(device: str) -> str:
    """The GPU's name, or the kind of CPU and its number of cores."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{_cpu_name()}, {os.cpu_count()} cores"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
