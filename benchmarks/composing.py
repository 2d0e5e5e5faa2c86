"""Compose the settings of a run from the command line, and refuse what is misspelt with the nearest right word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from tasks.choices import check_choice, unknown

CONF = Path(__file__).parent / "conf"
GROUPS = ("task", "data", "ablation", "scale", "launcher")


def choices(group: str) -> list[str]:
    """The names that a group offers."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def compose_run(arguments: Sequence[str]) -> dict[str, Any]:
    """The settings that command line arguments such as `task=sr steps=100` describe, as plain values.

    Raises:
        ValueError: in one line: an unknown key or choice, with the nearest right one, or a missing value.
    """
    overrides = [_parse(argument) for argument in arguments]
    for override in overrides:
        if override.key_or_group in GROUPS and not override.is_add():
            check_choice(override.key_or_group, override.value(), choices(override.key_or_group))
    chosen = [o for o in overrides if o.key_or_group in GROUPS]
    plain = _compose([_line(o) for o in chosen])
    if not any(o.key_or_group == "data" for o in chosen):
        chosen_data = f"data={default_data(plain)}"
        plain = _compose([*[_line(o) for o in chosen], chosen_data])
        arguments = [*arguments, chosen_data]
    _check_data(plain)
    keys = _keys(OmegaConf.to_container(plain, resolve=False))
    for override in overrides:
        key = override.key_or_group
        if key not in GROUPS and not override.is_add() and not override.is_force_add() and key not in keys:
            raise unknown("key", key, _similar_depth(key, keys))
    config = _compose(list(arguments))
    settings = _resolve(config)
    settings["default_data"] = default_data(config)
    return settings


def default_data(config: DictConfig) -> str:
    """The data that a task uses at a scale where nothing else is said."""
    task, scale = config.task.name, config.scale
    numbers = scale.get(task)
    if numbers is None:
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


def _parse(argument: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        raise ValueError(f"cannot read '{argument}'; write key=value, for example steps=100 or seeds=[0,1,2]") from None
    if override.is_sweep_override():
        raise ValueError(
            f"'{argument}' is several runs; one at a time, a list is written {override.key_or_group}=[...]"
        )
    if override.is_delete():
        raise ValueError(f"'{argument}': keys cannot be removed")
    return override


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
    except (MissingMandatoryValue, InterpolationResolutionError) as error:
        raise ValueError(_one_line(error)) from error
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


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
