"""Rules that hold over all files: who imports whom, how long a file is, what is pinned."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("slimlib", "tasks", "benchmarks")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(file: Path) -> Iterator[str]:
    """The outermost packages that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(("package", "never"), [("slimlib", {"tasks", "benchmarks"}), ("tasks", {"benchmarks"})])
def test_imports_run_one_way(package: str, never: set[str]) -> None:
    for file in FILES:
        if file.is_relative_to(ROOT / package):
            assert not never & set(imported(file)), file


def test_the_wheel_needs_torch_and_safetensors_alone() -> None:
    own = {"slimlib", "torch", "safetensors", *sys.stdlib_module_names}
    optional = [ROOT / "slimlib/rl", ROOT / "slimlib/export"]
    for file in FILES:
        if file.is_relative_to(ROOT / "slimlib") and not any(map(file.is_relative_to, optional)):
            assert set(imported(file)) <= own, file


def test_slimlib_rl_needs_what_stable_baselines3_brings() -> None:
    brought = {"slimlib", "torch", "stable_baselines3", "gymnasium", "numpy", "cloudpickle", *sys.stdlib_module_names}
    for file in (ROOT / "slimlib/rl").glob("*.py"):
        assert set(imported(file)) <= brought, file


def test_slimlib_export_needs_onnx_alone() -> None:
    brought = {"slimlib", "torch", "onnx", "onnxruntime", *sys.stdlib_module_names}
    for file in (ROOT / "slimlib/export").glob("*.py"):
        assert set(imported(file)) <= brought, file


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
