"""Compose the settings of a run from what was chosen and the command line; what is misspelt is refused.

A key is what the command line says; else what the data, then what the scale say; else its default.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarks.settings.choices import CODE, GROUPS, USUAL, check_choice, choices, content, model_of, question
from benchmarks.settings.groups import BY_SCALE, SWITCHES, Ablation, Data, Run, Scale
from benchmarks.settings.overrides import parse
from tasks.settings import Settings, keys_of, unknown

FIXED = ("name", "tasks")
"""Keys of a choice that a command line cannot change."""

LONGEST = 1000
"""Letters of an error; it may quote what was given."""


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Within, or for a function decorated with it: whatever is wrong with settings is a ValueError of a single line."""
    try:
        yield
    except RecursionError:
        raise ValueError("the settings are nested too deep, or refer to themselves") from None
    except (ValueError, OmegaConfBaseException) as error:
        lines = str(error).splitlines()[: 2 if isinstance(error, OmegaConfBaseException) else None]
        text = " ".join(" ".join(lines).split())
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
        raise ValueError(text) from error


@told_in_one_line()
def compose_run(arguments: Sequence[str]) -> dict[str, Any]:
    """The settings that command line arguments such as `task=sr steps=100` describe, as plain values.

    Raises:
        ValueError: in one line: an unknown key or choice, with the nearest right one, or a missing value.
    """
    overrides = [parse(argument, _texts()) for argument in arguments]
    for group, count in Counter(o.key_or_group for o in overrides if o.key_or_group in GROUPS).items():
        if count > 1:
            raise ValueError(f"{group} is chosen {count} times; a run has one {group}")
    chosen, default_data = _choose({o.key_or_group: o.value() for o in overrides if o.key_or_group in GROUPS})
    config = OmegaConf.create(_defaults(Run) | {group: _choice(group, name) for group, name in chosen.items()})
    given = {group: [o for o in overrides if o.key_or_group.startswith(f"{group}.")] for group in ("scale", "data")}
    others = [o for o in overrides if o.key_or_group not in GROUPS and o not in [*given["scale"], *given["data"]]]
    _check_keys([*given["scale"], *given["data"], *others], chosen, config)
    _apply([*given["scale"], *given["data"]], config)
    _fill(config, chosen, next((o.value() for o in others if o.key_or_group == "task.algorithm"), None))
    _apply(others, config)
    _list_switches(config)
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()} | {"default_data": default_data}


def _choose(given: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """The choice of every group, and the data that the scale uses where nothing is said."""
    for group, name in given.items():
        check_choice(group, name)
    chosen: dict[str, str] = {**USUAL, **given}
    task, scale = chosen["task"], content("scale", chosen["scale"])
    if task not in scale:
        has = ", ".join(key for key in scale if key in choices("task"))
        raise ValueError(f"scale={chosen['scale']} has no numbers for task={task}; it has: {has}")
    data = chosen.setdefault("data", scale[task]["data"])
    check_choice("data", data)
    if task not in content("data", data)["tasks"]:
        own = [name for name in choices("data") if task in content("data", name)["tasks"]]
        tasks = " or ".join(content("data", data)["tasks"])
        raise ValueError(f"data={data} is for task={tasks}; task={task} takes {', '.join(own)}")
    return chosen, scale[task]["data"]


def _choice(group: str, name: str) -> dict[str, Any]:
    """All keys of a choice, with what its file says, else their defaults."""
    return {"name": name} | _defaults(model_of(group, name)) if group in CODE else dict(content(group, name))


def _defaults(model: type[Settings]) -> dict[str, Any]:
    fields = {name: field for name, field in model.model_fields.items() if not field.is_required()}
    followed = {name: f"${{{key}}}" for name in fields if (key := model.said_of(name, "follows"))}
    return {name: field.default for name, field in fields.items()} | followed


def _check_keys(overrides: Iterable[Override], chosen: Mapping[str, str], config: DictConfig) -> None:
    """Raise ValueError, with the nearest right one, for a key that nothing reads, of an argument or of a file."""
    task = chosen["task"]
    models: dict[str, list[type[Settings]]] = {f"{group}.": [model_of(group, chosen[group])] for group in CODE}
    models |= {"": [Run], "ablation.": [Ablation], f"scale.{task}.": [Scale, *models["task."]]}
    models["data."] = [Data, *(model_of("task", one) for one in config.data.tasks)]
    shared = [f"{prefix}{key}" for prefix in ("data.", f"scale.{task}.") for key in BY_SCALE]
    fields = [(prefix, model, name) for prefix, of in models.items() for model in of for name in model.model_fields]
    known = [*(f"{prefix}{name}" for prefix, _, name in fields), *shared, *GROUPS, f"scale.{task}", "data.about"]
    free = {f"{prefix}{name}" for prefix, model, name in fields if model.is_mapping(name)}
    for override in overrides:
        group, _, inner = override.key_or_group.partition(".")
        if group in GROUPS and inner in FIXED:
            raise ValueError(f"{group}.{inner} belongs to {group}=<name>, and cannot be changed")
        if (group, inner) == ("scale", f"{task}.data"):
            raise ValueError(f"{group}.{inner} cannot be changed; choose data=<name>")
        _check_key(override.key_or_group, known, free)
    in_files = [f"data.{key}" for key in config.data if key != "name"]
    for key in [*in_files, *(f"scale.{task}.{key}" for key in config.scale[task])]:
        _check_key(key, known, free)


def _check_key(key: str, known: Sequence[str], free: set[str]) -> None:
    parents = [key[:end] for end, letter in enumerate(key) if letter == "."]
    if key not in known and free.isdisjoint(parents):
        near = ([name for name in known if name.startswith(f"{parent}.")] for parent in reversed(parents))
        raise unknown("key", key, next(filter(None, near), [name for name in known if "." not in name]))


def _check_below(key: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise ValueError where a mapping has a key that nothing reads."""
    known = [key, *(f"{key}.{name}" for name in allowed)]
    for name in given:
        _check_key(f"{key}.{name}", known, set())


def _apply(overrides: Iterable[Override], config: DictConfig) -> None:
    """What is read from files is added to; what follows from elsewhere is replaced."""
    for override in overrides:
        merge = override.key_or_group.partition(".")[0] in ("scale", "data", "ablation")
        OmegaConf.update(config, override.key_or_group, override.value(), merge=merge, force_add=True)


def _fill(config: DictConfig, chosen: Mapping[str, str], algorithm: object) -> None:
    """Give the keys of task and run what scale and data say of them."""
    task, scale = chosen["task"], chosen["scale"]
    plain: Any = OmegaConf.to_container(config, resolve=False)
    section, data = plain["scale"][task], plain["data"]
    if not isinstance(section, dict):
        raise ValueError(f"scale.{task}={section!r} must be keys and values")
    for key, value in data.items():
        if value == "???":
            raise ValueError(f"data={chosen['data']} needs data.{key}=<a value>. {question('data', chosen['data'])}")
    own = Data(**{key: data.pop(key) for key in Data.model_fields if key in data})
    of_task = model_of("task", task).model_fields
    _check_below("data.steps", own.steps, choices("scale"))
    algorithms = model_of("task", task).values_of("algorithm")
    if own.algorithms and not algorithms:
        raise ValueError(f"data.algorithms has no meaning for task={task}, which has no task.algorithm")
    _check_below("data.algorithms", own.algorithms, algorithms)
    for name, said in own.algorithms.items():
        _check_below(f"data.algorithms.{name}", said, of_task)
    data |= dict(own.algorithms.get(str(algorithm or data.get("algorithm")), {}))
    data |= {"steps": own.steps[scale]} if scale in own.steps else {}
    for key, value in (section | data | {"data": chosen["data"]}).items():
        if key in of_task:
            config.task[key] = value
        elif key in BY_SCALE:
            config[key] = value
    _list_switches(config)


def _list_switches(config: DictConfig) -> None:
    """Put the lists of switches in the place of their name."""
    named = None if OmegaConf.is_interpolation(config, "switches") else config.switches
    if isinstance(named, str):
        if named not in SWITCHES:
            raise unknown("switches", named, SWITCHES)
        config.switches = SWITCHES[named]
    elif isinstance(named, DictConfig):
        read = re.findall(r"\$\{switches\.(\w+)\}", OmegaConf.to_yaml(config.ablation))
        _check_below("switches", map(str, named), dict.fromkeys([*SWITCHES["quarters"], *read]))


@cache
def _texts() -> dict[str, bool]:
    """The keys whose values are text, and whether it is a list of texts."""
    models: list[type[Settings]] = [Run, *(model_of(group, name) for group in CODE for name in choices(group))]
    keys = (key for model in models for key in keys_of(model))
    return {key.name: "list" in key.allowed for key in keys if "text" in key.allowed or "folder" in key.allowed}
