"""What can be set, told from the models: the text of `python -m benchmarks.run help`, and docs/settings.md.

python -m benchmarks.settings.help docs/settings.md    writes the page
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.settings.choices import GROUPS, USUAL, choices, model_of, question
from benchmarks.settings.groups import BY_SCALE, Ablation, Data, Run, Scale
from tasks.settings import Key, keys_of

COMMAND = "python -m benchmarks.settings.help docs/settings.md"
ABOUT = {
    "task": "what networks are trained for",
    "data": "what they are trained on; by itself what the scale has for the task",
    "ablation": "which recipes are compared",
    "scale": "how long and how often they are trained, and on what",
    "launcher": "where the recipes run; it changes no result",
    "tracker": "where the trainings can be watched; it changes no result",
}
HEAD = """\
# Settings

Made by `{command}` from the models in `tasks/*/settings.py` and `benchmarks/settings/`; do not edit.
`python -m benchmarks.run help` tells the same.

One run is one choice of each group, and keys: `python -m benchmarks.run task=sr ablation=sandwich steps=100`.
A key has the value that the command line gives it; else what the data, then what the scale say; else its default.
A list is written `seeds=[0,1]`, and text with `=`, `#`, `,` or `[` in quotes: `'data.root="/images, raw"'`.
"""


def usage(about: str) -> str:
    """What can be chosen, the question each choice answers, and every key."""
    lines = [about, ""]
    for group in GROUPS:
        lines += [f"{group}={USUAL.get(group, '')}", f"  {ABOUT[group]}:"]
        lines += [f"  {name:<15} {question(group, name)}" for name in choices(group)]
    for title, keys in _sections():
        lines += ["", f"{title}:"]
        lines += [f"  {key.name + '=' + _default(key):<32} {key.about}: {key.allowed}" for key in keys]
    return "\n".join(lines)


def page() -> str:
    """All that can be chosen and set, as Markdown."""
    parts = [HEAD.format(command=COMMAND).rstrip()]
    for group in GROUPS:
        usual = f" Usually `{USUAL[group]}`." if group in USUAL else ""
        parts += [f"## {group}", f"{ABOUT[group].capitalize()}.{usual}"]
        parts.append("\n".join(f"- `{group}={name}`: {question(group, name)}" for name in choices(group)))
    parts.append("## Keys")
    for title, keys in _sections():
        head = "| key | default | what it is | what is allowed |\n| --- | --- | --- | --- |"
        rows = "\n".join(f"| `{key.name}` | `{_default(key)}` | {key.about} | {key.allowed} |" for key in keys)
        parts += [f"### {title}", f"{head}\n{rows}"]
    return "\n\n".join(parts) + "\n"


def _default(key: Key) -> str:
    return "" if key.default == '""' else key.default


def _sections() -> Iterator[tuple[str, list[Key]]]:
    yield "A run's own keys", list(keys_of(Run))
    for group in ("task", "launcher", "tracker"):
        for name in choices(group):
            if keys := list(keys_of(model_of(group, name))):
                yield f"{group}={name}", keys
    others = f"and {', '.join(BY_SCALE)}, and keys of the task"
    yield f"Data say of themselves ({others})", list(keys_of(Data))
    yield f"A scale says for each task ({others})", list(keys_of(Scale))
    yield "An ablation", list(keys_of(Ablation))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
