"""Who imports whom: the arrows run one way, between files and between packages."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OWN = ("slimlib", "tasks", "benchmarks")
FLOORS = {
    "slimlib": (
        ("core",),
        ("flow",),
        ("convert", "calibration", "saving"),
        ("training", "serving"),
        ("models", "export", "search"),
        ("dynamic",),
        ("rl",),
    ),
    "tasks": (
        ("settings",),
        ("atomic", "pixels", "points", "splits"),
        ("training",),
        ("task",),
        ("by_width", "crops"),
        ("classification", "sr", "rl", "detection"),
    ),
    "benchmarks": (
        ("settings",),
        ("records",),
        ("running",),
        ("analysis",),
        ("perf",),
        ("papers",),
        ("tables",),
        ("report", "serve"),
        ("runner",),
        ("run", "merge", "features", "networks", "pull"),
        ("campaign",),
    ),
}
"""The packages and modules of each, from the ground up: a floor imports from those below it alone."""


def modules() -> dict[str, Path]:
    """Dotted name -> file, of all that is ours."""
    files = (file for package in OWN for file in sorted((ROOT / package).rglob("*.py")))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def imports_of(file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of ours that a file imports: anywhere in it, for types alone, or by `import_module("...")`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & known.keys() or {node.module} & known.keys()
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in known:
            yield node.value


KNOWN = modules()
GRAPH = {
    name: {other for other in imports_of(file, KNOWN) if other not in (name, *OWN)} for name, file in KNOWN.items()
}


def package_of(name: str) -> str:
    return ".".join(name.split(".")[:2])


def cycle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules of a circle, each of which imports the one before it; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def test_no_file_imports_itself_by_way_of_others() -> None:
    assert cycle_in(GRAPH) == []


def test_no_package_imports_itself_by_way_of_others() -> None:
    packages: dict[str, set[str]] = {}
    for name, others in GRAPH.items():
        packages.setdefault(package_of(name), set()).update({package_of(o) for o in others} - {package_of(name), *OWN})
    assert cycle_in(packages) == []


def test_a_circle_would_be_found() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []


@pytest.mark.parametrize("package", OWN)
def test_a_package_imports_from_those_below_alone(package: str) -> None:
    level = {f"{own}.{name}": (OWN.index(own), i) for own in OWN for i, f in enumerate(FLOORS[own]) for name in f}
    wrong = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        if name.startswith(f"{package}.")
        for other in others
        if package_of(other) != package_of(name) and level[package_of(other)] >= level[package_of(name)]
    ]
    assert wrong == []


def test_every_package_has_a_floor() -> None:
    placed = {f"{package}.{name}" for package in OWN for floor in FLOORS[package] for name in floor}
    assert {package_of(name) for name in KNOWN if name not in OWN} - {"benchmarks.conf"} <= placed


def foreign_imports(file: Path) -> set[str]:
    """The outermost packages, of others, that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - {*OWN, *sys.stdlib_module_names}


BROUGHT = {
    "slimlib.rl": {"stable_baselines3", "gymnasium", "numpy", "cloudpickle"},
    "slimlib.export": {"onnx", "onnxruntime"},
    "slimlib.core.allowed_arrays": {"numpy"},  # which slimlib.rl brings
}


@pytest.mark.parametrize("name", [name for name in KNOWN if name.startswith("slimlib")])
def test_slimlib_needs_torch_safetensors_and_what_an_extra_brings(name: str) -> None:
    brought = BROUGHT.get(name) or BROUGHT.get(package_of(name), set())
    assert foreign_imports(KNOWN[name]) <= {"torch", "safetensors"} | brought
