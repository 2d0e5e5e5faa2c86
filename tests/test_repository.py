"""Rules that hold over all files: how long a file is, what is pinned, what `import slimlib` brings along."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("slimlib", "tasks", "benchmarks")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_slimlib_alone_does_not_import_what_is_optional() -> None:
    optional = ("stable_baselines3", "gymnasium", "slimlib.rl", "onnx", "onnxruntime", "onnxscript")
    code = f"import sys, slimlib; print([m for m in {optional} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_no_file_is_over_400_lines() -> None:
    assert [file.name for file in FILES if len(file.read_text().splitlines()) > 400] == []


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for group in project["optional-dependencies"].values() for r in group)]
    pins = {name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"}
    assert {name(r) for r in wanted if not r.startswith("slimlib[")} <= pins


def name(requirement: str) -> str:
    """The normalised name in a requirement or pin."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()
