"""What can be set, told from the models: the text of `python -m benchmarks.run help`, and docs/settings.md.

python -m benchmarks.settings.help docs/settings.md    writes the page
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.settings.choices import GROUPS, USUAL, choices, content, model_of, question
from benchmarks.settings.groups import BY_SCALE, Ablation, Data, Run, Scale
from tasks.settings import Key, keys_of, shown

COMMAND = "python -m benchmarks.settings.help docs/settings.md"
ABOUT = {
    "task": "What networks are trained for.",
    "data": "What they are trained on; by itself what the scale has for the task.",
    "ablation": "Which recipes are compared.",
    "scale": "How long and how often networks are trained, and on what.",
    "launcher": "Where the recipes run. It changes no result.",
    "tracker": "Where the trainings can be watched. It changes no result.",
}
ORDER = "A key is what the command line says; else what the data, then what the scale say; else its default."
HEAD = """\
# Settings

Made by `{command}` from the models in `tasks/` and `benchmarks/settings/`;
do not edit. `python -m benchmarks.run help` tells the same.

One run is one choice of each group, and keys: `python -m benchmarks.run task=sr ablation=sandwich steps=100`.
{order}
A list is written `seeds=[0,1]`; text with `=`, `#`, `,` or `[` stands in quotes: `'data.root="/images, raw"'`.
"""


def usage(about: str) -> str:
    """What can be chosen, the question that each choice answers, and every key but those of recipes."""
    lines = [about]
    for group in GROUPS:
        lines += [f"{group}={USUAL.get(group, '')}  {ABOUT[group]}"]
        lines += [f"  {name:<15} {question(group, name)}" for name in choices(group)] + [""]
    lines += [ORDER, ""]
    for title, keys in sections():
        lines += [f"{title}:", *_lines(keys), ""]
    return "\n".join([*lines, "The keys of recipes: python -m benchmarks.run help recipes"])


def usage_of_recipes() -> str:
    """Every key that a recipe of an ablation can have; imports torch."""
    return "\n".join(["A recipe, in conf/ablation/name.yaml:", *_lines(keys_of_recipes())])


def page() -> str:
    """All that can be chosen and set, as Markdown."""
    parts = [HEAD.format(command=COMMAND, order=ORDER).rstrip()]
    for group in GROUPS:
        usual = f" Usually `{USUAL[group]}`." if group in USUAL else ""
        parts += [f"## {group}", f"{ABOUT[group]}{usual}"]
        parts.append("\n".join(f"- `{group}={name}`: {markdown(question(group, name))}" for name in choices(group)))
    parts.append("## Keys")
    for title, keys in [*sections(), ("A recipe", keys_of_recipes())]:
        rows = [[f"`{key.name}`", f"`{key.default}`", markdown(key.about), key.allowed] for key in keys]
        parts += [f"### {title}", _table(["key", "default", "what it is", "what is allowed"], rows)]
    for task in choices("task"):
        doc = inspect.getdoc(model_of("task", task)) or ""
        parts += [f"### What the scales say for task={task}", _of_scales(task), doc.partition("\n\n")[2]]
    return "\n\n".join(parts) + "\n"


def sections() -> Iterator[tuple[str, list[Key]]]:
    """A title, and keys."""
    yield "A run", [replace(key, default="the scale's") if key.name in BY_SCALE[:2] else key for key in keys_of(Run)]
    for group in ("task", "launcher", "tracker"):
        for name in choices(group):
            if keys := list(keys_of(model_of(group, name))):
                yield f"{group}={name}", keys
    others = f"also {', '.join(BY_SCALE)}, and any key of the task"
    yield f"Data, in conf/data/name.yaml; {others}", list(keys_of(Data))
    yield f"A scale, in conf/scale/name.yaml; {others}", list(keys_of(Scale))
    yield "An ablation, in conf/ablation/name.yaml", list(keys_of(Ablation))


def keys_of_recipes() -> list[Key]:
    """The keys of all recipes, then those that a rule, a distillation or a lesson adds."""
    from slimlib.training.distillation import lessons_named  # torch takes seconds to import
    from slimlib.training.named import parameters_of
    from slimlib.training.rules import RULES, rule_parameters
    from tasks.training.recipe import DISTILLED, Recipe

    lesson = parameters_of(lessons_named, without=("distill",))
    chosen = [("rule", name, rule_parameters(name)) for name in RULES]
    chosen += [("distill", name, parameters_of(made_by)) for name, made_by in DISTILLED.items()]
    owners: dict[tuple[str, str, str], list[str]] = {}
    for what, owner, defaults in chosen:
        for name, default in defaults.items():
            owners.setdefault((name, shown(default), what), []).append(owner)
    own = [Key(name, "", default, f"of {what}: {' or '.join(of)}") for (name, default, what), of in owners.items()]
    of_lesson = "as of slimlib.Lesson; smallest and largest have these keys for that width"
    return [*keys_of(Recipe), *own, *(Key(name, "", shown(default), of_lesson) for name, default in lesson.items())]


def markdown(text: str) -> str:
    """Text whose signs mean nothing in Markdown."""
    return text.replace("<", "&lt;").replace("*", "\\*")


def _of_scales(task: str) -> str:
    """The keys that a scale sets, and their values."""
    said = {scale: content("scale", scale)[task] for scale in ("tiny", "small", "paper")}
    rows = [
        [f"`{key}`" if key in (*BY_SCALE, "data") else f"`task.{key}`"]
        + [f"`{shown(one[key])}`" if key in one else "" for one in said.values()]
        for key in dict.fromkeys(key for one in said.values() for key in one)
    ]
    return _table(["key", *(f"scale={scale}" for scale in said)], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _lines(keys: list[Key]) -> list[str]:
    return [f"  {f'{key.name}={key.default}':<32} {key.about} ({key.allowed})".removesuffix(" ()") for key in keys]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
