"""Compose the settings of a run from the command line, and refuse what is misspelt with the nearest right word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tasks.choices import check_choice
from tasks.settings import unknown

CONF = Path(__file__).parent.parent / "conf"
GROUPS = ("task", "data", "ablation", "scale", "launcher", "tracker")
SAYS_WHAT_IT_IS = ("name", "tasks")
"""Keys of a choice that a command line cannot change."""

OPEN = {"data": 2, "scale": 3}
"""Groups that no settings class checks: so many parts of a new key must be known."""

LONGEST = 1000
"""Letters of an error; it may quote what was given."""


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Within, or for a function decorated with it: whatever is wrong with settings is a ValueError of a single line."""
    try:
        yield
    except RecursionError:
        raise ValueError("the settings are nested too deep, or refer to themselves") from None
    except ValueError as error:
        text = " ".join(str(error).split())
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
        raise ValueError(text) from error


def choices(group: str) -> list[str]:
    """The names that a group offers."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def compose_run(arguments: Sequence[str]) -> dict[str, Any]:
    """The settings that command line arguments such as `task=sr steps=100` describe, as plain values.

    Raises:
        ValueError: in one line: an unknown key or choice, with the nearest right one, or a missing value.
    """
    arguments = [_at_home(argument) for argument in arguments]
    overrides = [_parse(argument) for argument in arguments]
    chosen = [o for o in overrides if o.key_or_group in GROUPS]
    for override in chosen:
        check_choice(override.key_or_group, override.value(), choices(override.key_or_group))
    plain = _compose([_line(o) for o in chosen])
    if not any(o.key_or_group == "data" for o in chosen):
        chosen_data = f"data={default_data(plain)}"
        plain = _compose([*[_line(o) for o in chosen], chosen_data])
        arguments = [*arguments, chosen_data]
    _check_data(plain)
    keys = _keys(OmegaConf.to_container(plain, resolve=False))
    for override in overrides:
        _check_key(override, plain.task.name, keys)
    config = _compose(list(arguments))
    settings = _resolve(config)
    settings["default_data"] = default_data(config)
    return settings


def default_data(config: DictConfig) -> str:
    """The data that a task uses at a scale where nothing else is said."""
    task, scale = config.task.name, config.scale
    numbers = scale.get(task)
    if not isinstance(numbers, DictConfig):
        has = ", ".join(str(key) for key in scale if key != "name")
        raise ValueError(f"scale={scale.name} has no numbers for task={task}; it has: {has}")
    return str(numbers.data)


def _check_data(config: DictConfig) -> None:
    """Raise ValueError where the data chosen are those of another task."""
    task, data = config.task.name, config.data
    if task in data.tasks:
        return
    own = [name for name in choices("data") if task in OmegaConf.load(CONF / "data" / f"{name}.yaml").tasks]
    raise ValueError(f"data={data.name} is for task={' or '.join(data.tasks)}; task={task} takes {', '.join(own)}")


def _at_home(argument: str) -> str:
    """~/pictures as a value: no shell expands it after a dotted key, and hydra cannot read it."""
    return re.sub(r"(?<=[=\[,])~(?=/)", lambda _: str(Path.home()), argument)


def _parse(argument: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        shown = argument if len(argument) <= 80 else f"{argument[:80]}..."
        raise ValueError(f"cannot read '{shown}'; write key=value, for example steps=100 or seeds=[0,1,2]") from None
    if override.is_sweep_override():
        raise ValueError(
            f"'{argument}' is several runs; one at a time, a list is written {override.key_or_group}=[...]"
        )
    if override.is_delete():
        raise ValueError(f"'{argument}': keys cannot be removed")
    if override.key_or_group in GROUPS and argument.partition("=")[0] != override.key_or_group:
        raise ValueError(f"'{argument}': a choice is written {override.key_or_group}=<its name>")
    return override


def _check_key(override: Override, task: str, keys: Sequence[str]) -> None:
    """Raise ValueError, with the nearest right one, for a key that nothing reads."""
    key = override.key_or_group
    if key in GROUPS:
        return
    group, _, inner = key.partition(".")
    if group in GROUPS and inner in SAYS_WHAT_IT_IS:
        raise ValueError(f"{key} belongs to {group}=<name>, and cannot be changed")
    if not (override.is_add() or override.is_force_add()):
        if key not in keys:
            raise unknown("key", key, _similar_depth(key, keys))
    elif group not in GROUPS:  # it would be added, and read by nobody
        if key not in keys:
            raise unknown("key", key, [k for k in keys if "." not in k])
    elif group in OPEN:  # the other groups are checked by those who read them
        known = [*keys, *_asked_for(task)]
        if ".".join(key.split(".")[: OPEN[group]]) not in known:
            raise unknown("key", key, [k for k in known if k.startswith(f"{group}.")])


@cache
def _asked_for(task: str) -> list[str]:
    """The keys that settings files take from data or scale where these have them: data.options."""
    texts = [path.read_text().replace("${task.name}", task) for path in sorted(CONF.rglob("*.yaml"))]
    return sorted({key for text in texts for key in re.findall(r"\{oc\.select:([\w.]+)", text)})


def _line(override: Override) -> str:
    assert override.input_line is not None
    return override.input_line


def _compose(overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_one_line(error)) from error
    finally:
        GlobalHydra.instance().clear()


def _resolve(config: DictConfig) -> dict[str, Any]:
    for group in GROUPS:
        missing = [key for key in config[group] if OmegaConf.is_missing(config[group], key)]
        if missing:
            hint = (CONF / group / f"{config[group].name}.yaml").read_text().splitlines()[0].removeprefix("# ")
            raise ValueError(f"{group}={config[group].name} needs {group}.{missing[0]}=<a value>. {hint}")
    try:
        content = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ValueError(_one_line(error)) from error
    assert isinstance(content, dict)
    _check_words(content)
    return {str(key): value for key, value in content.items()}


def _check_words(content: Any) -> None:
    """Raise ValueError where a key is a number or the like: records hold words, and could not be read back the same."""
    if isinstance(content, list):
        content = dict(zip(map(str, range(len(content))), content, strict=True))
    for key, value in content.items() if isinstance(content, dict) else ():
        if not isinstance(key, str):
            raise ValueError(f"the key {key!r} must be a word; '{key}' in quotes is one")
        _check_words(value)


def _one_line(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2] if line.strip())


def _keys(content: Any, prefix: str = "") -> list[str]:
    """Every key of nested settings, dotted."""
    if not isinstance(content, dict):
        return []
    found = []
    for key, value in content.items():
        path = f"{prefix}{key}"
        found += [path, *_keys(value, f"{path}.")]
    return found


def _similar_depth(key: str, keys: Sequence[str]) -> list[str]:
    """The keys to suggest from: those as deep as the wrong one, below the same parent where it exists."""
    parent = key.rpartition(".")[0]
    siblings = [k for k in keys if k.rpartition(".")[0] == parent]
    return siblings or [k for k in keys if "." not in k]
