"""Writes docs/api.md, the public names of slimlib with their docstrings: `python -m tests.api_page`."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
COMMAND = "python -m tests.api_page"
MODULES = ("slimlib", "slimlib.export", "slimlib.models", "slimlib.rl")
HEAD = f"""\
# API reference

Made from the docstrings by `{COMMAND}`; do not edit. Tensors are given by their shapes, N being the batch.
"""
SECTION = re.compile(r"^(\w[\w ]*):$")
FIELD = re.compile(r"^([a-z_, ]+): ")  # of a dataclass
LIST = re.compile(r'^ {4}([\w\-*", ]+):(?: |$)')


def page() -> str:
    """The whole page."""
    modules = [importlib.import_module(name) for name in MODULES]
    lines = [HEAD]
    for module in modules:
        names = ", ".join(f"[`{name}`](#{anchor(module, name)})" for name in module.__all__)
        lines += [f"- `{module.__name__}`: {names}"]
    shown: set[Any] = set()
    for module in modules:
        lines += ["", f"## `{module.__name__}`", "", *prose(inspect.getdoc(module) or "")]
        for name in module.__all__:
            lines += [
                "",
                f'### <a id="{anchor(module, name)}"></a>`{name}`',
                "",
                *entry(name, getattr(module, name), shown),
            ]
    return "\n".join(lines) + "\n"


def anchor(module: ModuleType, name: str) -> str:
    return f"{module.__name__}.{name}".replace(".", "-")


def entry(name: str, thing: Any, shown: set[Any]) -> Iterator[str]:
    """The signature and docstring of a public thing, and of the public methods of a class, those it inherits once."""
    yield from described(name, thing)
    if not inspect.isclass(thing):
        return
    for method in sorted(dir(thing)):
        found = next(vars(base)[method] for base in thing.__mro__ if method in vars(base))
        if method.startswith("_") or not is_ours(found) or found in shown or not inspect.getdoc(found):
            continue
        shown.add(found)
        yield ""
        yield from described(f"{name}.{method}", found)


def is_ours(found: Any) -> bool:
    """Whether it is a method or property that slimlib defines."""
    function = found.fget if isinstance(found, property) else found
    return inspect.isfunction(function) and function.__module__.startswith("slimlib")


def described(name: str, thing: Any) -> Iterator[str]:
    yield from ("```text", signature(name, thing), "```", "")
    yield from prose(inspect.getdoc(thing) or "")


def signature(name: str, thing: Any) -> str:
    """As it is called, an argument a line where one line is too long."""
    if isinstance(thing, property) or not callable(thing):
        return name
    try:
        found = inspect.signature(thing)
    except ValueError:  # an exception without an `__init__` of its own
        return name
    kept = [p.replace(annotation=p.annotation) for p in found.parameters.values() if p.name != "self"]
    short = plain(f"{name}{found.replace(parameters=kept)}")
    if len(short) <= 110 or not kept:
        return short
    ends = short[short.rindex(")") + 1 :]
    return "\n".join([f"{name}(", *(f"    {plain(line)}," for line in arguments(kept)), f"){ends}"])


def plain(text: str) -> str:
    """Annotations as they were written, and functions by their names."""
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text).removesuffix(" -> None")
    return re.sub(r"<(?:built-in )?function (\w+)(?: at 0x\w+)?>", r"\1", text)


def arguments(parameters: list[inspect.Parameter]) -> Iterator[str]:
    starred = False
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            starred = True
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            yield "*"
            starred = True
        yield str(parameter)


def prose(doc: str) -> Iterator[str]:
    """A docstring as Markdown: its sections (Args, Raises, ...) become lists."""
    listing = False
    for line in doc.splitlines():
        head, item, field = SECTION.match(line), LIST.match(line), FIELD.match(line)
        if head:
            listing = True
            yield f"**{head[1]}**"
            yield ""
        elif listing and item:
            yield f"- `{item[1]}`:{line[item.end(1) + 1 :]}"
        elif field:
            listing = True
            yield f"- `{field[1]}`:{line[field.end(1) + 1 :]}"
        elif listing and line.startswith("  "):
            yield f"  {line.strip()}"
        else:
            listing = listing and not line.strip()
            yield line


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE}\n")
