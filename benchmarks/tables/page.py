"""The page of the ablations: question, recipes, commands, cost, and what was found, from YAML and records."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.analysis.ablation import grids
from benchmarks.analysis.collecting import Collected
from benchmarks.analysis.findings import finding
from benchmarks.analysis.grid import markdown
from benchmarks.analysis.results import Results
from benchmarks.papers.cost import estimate, explained
from benchmarks.papers.published import as_command
from benchmarks.papers.rates import Rates
from benchmarks.settings.choices import choices, content
from benchmarks.settings.run import MEANT_FOR, RunSettings, read_settings
from benchmarks.settings.task import TASKS
from tasks.settings import shown

SCALES = ("tiny", "small", "paper")
COMMAND = "python -m benchmarks.tables page=docs/ablations.md"
GIVEN: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("classification", "cifar10"): ("data.root=data/cifar10",),
    ("classification", "imagenet"): ("data.root=data/ImageNet",),
    ("detection", "coco"): ("data.root=data/coco", "task.weights=data/s_resnet50.pt"),
    ("sr", "benchmark"): ("data.root=data/benchmark",),
    ("sr", "folder"): ("data.root=data/DIV2K",),
}
"""What commands say of files that come with no package, for a task and its data."""

HEAD = """\
# The ablations: questions, commands, results

Made by `{command}` from `benchmarks/conf/ablation/` and the records; do not edit.
`scale=tiny` takes minutes on two CPU cores, `scale=small` trains several seeds on a small public data set,
`scale=paper` is the published recipe; `data.root` is the folder that holds the data.
The papers' tables, with ours beside them, are in `{published}/`.

{explained}
"""


def ablations_page(collected: Sequence[Collected], rates: Rates, at: Path, results: Path) -> str:
    """The page as Markdown.

    Args:
        at: the folder that it lies in; `results`: that of the records: its links lead from one to the other.
    """
    names = choices("ablation")
    published = Path(os.path.relpath(results / "published", at)).as_posix()
    parts = [HEAD.format(command=COMMAND, explained=explained(rates), published=published).rstrip()]
    parts.append("\n".join(f"- [{name}](#{name}): {content('ablation', name)['question']}" for name in names))
    for name in names:
        found = [one for one in collected if one.tables and one.tables[0].first.ablation == name]
        parts += [f"## {name}", *_section(name, found, rates, at)]
    return "\n\n".join(parts) + "\n"


def _section(name: str, found: Sequence[Collected], rates: Rates, at: Path) -> Iterator[str]:
    ablation = content("ablation", name)
    tasks = [task for task in TASKS if task in ablation.get("tasks", TASKS)]
    yield f"**{ablation['question']}** For {_and([f'`task={task}`' for task in tasks])}."
    yield "\n".join(f"- {_recipe(recipe)}" for recipe in ablation["recipes"])
    commands = [(task, scale) for task in tasks for scale in SCALES]
    yield "\n".join(["```bash", *(as_command(_words(name, *chosen)) for chosen in commands), "```"])
    costs = [f"`task={task}`: {estimate(_settings(name, task, 'paper'), rates)}" for task in tasks]
    yield f"Estimated at `scale=paper`: {'; '.join(costs)}."
    if not found:
        yield "Nobody has run it yet."
    for one in found:
        for number, table in enumerate(one.tables, start=1):
            yield from _found(one.folder.path if number == 1 else one.folder.path / "other" / str(number), table, at)


def _found(folder: Path, results: Results, at: Path) -> Iterator[str]:
    """What the records of one table say."""
    first, where = results.first, Path(os.path.relpath(folder, at)).as_posix()
    yield f"### {first.ablation}, {first.task}: {first.data}, scale {first.scale}"
    yield f"{finding(results)}. {results.caption()}"
    yield markdown(grids(results)[0])
    curves = f", [learning curves]({where}/curves.png)" if (folder / "curves.png").exists() else ""
    yield f"[All of its tables]({where}/table.md){curves}."
    yield f"![{finding(results)}]({where}/figure.png)"


def _recipe(given: Mapping[str, Any]) -> str:
    """A recipe as its YAML has it; `${switches.four}` is the scale's."""
    settings = [f"{key}: {_plain(value)}" for key, value in given.items() if key not in ("name", *MEANT_FOR)]
    places = [_and(given[key]) for key in MEANT_FOR if key in given]
    only = f" (only {', '.join(places)})" if places else ""
    listed = f": {', '.join(settings)}" if settings else ""
    return f"`{_plain(given['name'])}`{listed}{only}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return shown(value)
    text = "none" if value is None else str(value) if not isinstance(value, list) else ", ".join(map(_plain, value))
    return text.replace("${", "<").replace("}", ">") if isinstance(value, str) else text


def _words(name: str, task: str, scale: str) -> list[str]:
    """The arguments of the run of an ablation."""
    data = content("scale", scale)[task]["data"]
    return [f"task={task}", f"ablation={name}", f"scale={scale}", *GIVEN.get((task, data), ())]


def _settings(name: str, task: str, scale: str) -> RunSettings:
    return read_settings(_words(name, task, scale))


def _and(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
