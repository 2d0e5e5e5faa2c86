"""Compose the settings of a run from what was chosen and the command line; what is misspelt is refused.

A key has the value that the command line gives it; else what the data, then what the scale say; else its default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarks.settings.choices import CODE, GROUPS, USUAL, check_choice, choices, content, model_of, question
from benchmarks.settings.groups import BY_SCALE, SWITCHES, Data, Run, Scale
from benchmarks.settings.overrides import parse
from tasks.settings import Settings, keys_of, unknown

FIXED = ("name", "tasks")
"""Keys of a choice that a command line cannot change."""

FILLING = ("data", "scale")
"""The groups that say what keys of a task and a run are."""

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
    chosen, default_data = _choose({o.key_or_group: o.value() for o in overrides if o.key_or_group in GROUPS})
    config = OmegaConf.create(_usual(chosen))
    values = [override for override in overrides if override.key_or_group not in GROUPS]
    known, free = _keys_to_set(chosen, config)
    for override in values:
        _check_key(override, known, free)
    for override in values:
        if _group_of(override) in FILLING:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True, force_add=True)
    algorithm = next((o.value() for o in values if o.key_or_group == "task.algorithm"), None)
    _fill(config, _said(config, chosen, algorithm), chosen["task"])
    for override in values:
        if _group_of(override) not in FILLING:
            merge = _group_of(override) == "ablation"
            OmegaConf.update(config, override.key_or_group, override.value(), merge=merge, force_add=True)
    _list_switches(config)
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    _check_words(plain)
    return {str(key): value for key, value in plain.items()} | {"default_data": default_data}


def _group_of(override: Override) -> str:
    return override.key_or_group.partition(".")[0]


def _choose(given: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """The choice of every group, and the data that the scale uses where nothing is said."""
    for group, name in given.items():
        check_choice(group, name)
    chosen = {**USUAL, **given}
    task, scale = chosen["task"], content("scale", chosen["scale"])
    if task not in scale:
        has = ", ".join(key for key in scale if key in choices("task"))
        raise ValueError(f"scale={chosen['scale']} has no numbers for task={task}; it has: {has}")
    default_data = str(scale[task]["data"])
    data = chosen.setdefault("data", default_data)
    check_choice("data", data)
    if task not in content("data", data)["tasks"]:
        own = [name for name in choices("data") if task in content("data", name)["tasks"]]
        tasks = " or ".join(content("data", data)["tasks"])
        raise ValueError(f"data={data} is for task={tasks}; task={task} takes {', '.join(own)}")
    return chosen, default_data


def _usual(chosen: Mapping[str, str]) -> dict[str, Any]:
    """All keys of the chosen, with what their files say, else their defaults."""
    groups: dict[str, Any] = {
        group: {"name": name} | _defaults(model_of(group, name)) if group in CODE else dict(content(group, name))
        for group, name in chosen.items()
    }
    return _defaults(Run) | groups


def _defaults(model: type[Settings]) -> dict[str, Any]:
    followed = {name: f"${{{key}}}" for name, key in model.followers().items()}
    return {name: field.default for name, field in model.model_fields.items() if not field.is_required()} | followed


def _keys_to_set(chosen: Mapping[str, str], config: DictConfig) -> tuple[list[str], set[str]]:
    """The dotted keys that a command line can set, and those that keys can be put below."""
    task = chosen["task"]
    models: dict[str, tuple[type[Settings], ...]] = {
        "": (Run,),
        **{f"{group}.": (model_of(group, chosen[group]),) for group in CODE},
        "data.": (Data, model_of("task", task)),
        f"scale.{task}.": (Scale, model_of("task", task)),
    }
    keys, free = [], {"ablation.slimmable"}
    for prefix, some in models.items():
        for model in some:
            keys += [f"{prefix}{name}" for name in model.model_fields]
            free |= {f"{prefix}{name}" for name in model.model_fields if model.is_mapping(name)}
        keys += [f"{prefix}{name}" for name in BY_SCALE if prefix not in ("", "task.", "launcher.", "tracker.")]
    keys += _dotted(OmegaConf.to_container(config, resolve=False))
    return list(dict.fromkeys(keys)), free


def _check_key(override: Override, known: Sequence[str], free: set[str]) -> None:
    """Raise ValueError, with the nearest right one, for a key that nothing reads."""
    key = override.key_or_group
    group, _, inner = key.partition(".")
    if group in GROUPS and inner in FIXED:
        raise ValueError(f"{key} belongs to {group}=<name>, and cannot be changed")
    if group == "scale" and inner.endswith(".data"):
        raise ValueError(f"{key} cannot be changed; choose data=<name>")
    parents = {key[:end] for end, letter in enumerate(key) if letter == "."}
    added = override.is_add() or override.is_force_add() or group not in FILLING
    if key not in known and not (added and parents & free):
        parent = key.rpartition(".")[0]
        near = [k for k in known if k.rpartition(".")[0] == parent] or [k for k in known if "." not in k]
        raise unknown("key", key, near)


def _said(config: DictConfig, chosen: Mapping[str, str], algorithm: object) -> dict[str, Any]:
    """What scale and data say of the keys of the task and the run.

    Raises:
        ValueError: a value is missing, or a file has a key that nothing reads.
    """
    task, name = chosen["task"], chosen["data"]
    of_task = set(model_of("task", task).model_fields)
    of_scale: Any = OmegaConf.to_container(config.scale, resolve=False)
    section = of_scale[task]
    if not isinstance(section, dict):
        raise ValueError(f"scale.{task}={section!r} must be keys and values")
    _only_known(f"scale.{task}", section, {*Scale.model_fields, *BY_SCALE, *of_task})
    data: Any = OmegaConf.to_container(config.data, resolve=False)
    of_tasks = {key for one in data["tasks"] for key in model_of("task", one).model_fields}
    _only_known("data", data, {"name", "about", *Data.model_fields, *BY_SCALE, *of_tasks})
    for key, value in data.items():
        if value == "???":
            raise ValueError(f"data={name} needs data.{key}=<a value>. {question('data', name)}")
    own = Data(**{key: value for key, value in data.items() if key in Data.model_fields})
    by_algorithm = own.algorithms.get(str(algorithm or data.get("algorithm")), {})
    _only_known("data.algorithms.<name>", by_algorithm, {"steps", *of_task})
    steps = {"steps": own.steps[chosen["scale"]]} if chosen["scale"] in own.steps else {}
    without = ("steps", "data", *Data.model_fields)
    own_keys = {k: v for k, v in {**data, **by_algorithm}.items() if k not in without}
    return {**section, **own_keys, **steps, "data": name}


def _only_known(where: str, given: Mapping[str, Any], known: set[str]) -> None:
    for key in given:
        if key not in known:
            raise unknown("key", f"{where}.{key}", [f"{where}.{name}" for name in sorted(known)])


def _fill(config: DictConfig, said: Mapping[str, Any], task: str) -> None:
    for key, value in said.items():
        if key in model_of("task", task).model_fields:
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


@cache
def _texts() -> frozenset[str]:
    """The keys whose values are text."""
    models: list[type[Settings]] = [Run, *(model_of(group, name) for group in CODE for name in choices(group))]
    keys = (key for model in models for key in keys_of(model))
    return frozenset(key.name for key in keys if "text" in key.allowed or "folder" in key.allowed)


def _check_words(content: Any) -> None:
    """Raise ValueError where a key is a number or the like: records hold words, and could not be read back the same."""
    if isinstance(content, list):
        content = dict(zip(map(str, range(len(content))), content, strict=True))
    for key, value in content.items() if isinstance(content, dict) else ():
        if not isinstance(key, str):
            raise ValueError(f"the key {key!r} must be a word; '{key}' in quotes is one")
        _check_words(value)


def _dotted(content: Any, prefix: str = "") -> list[str]:
    """Every key of nested settings, dotted."""
    if not isinstance(content, dict):
        return []
    found = []
    for key, value in content.items():
        path = f"{prefix}{key}"
        found += [path, *_dotted(value, f"{path}.")]
    return found
