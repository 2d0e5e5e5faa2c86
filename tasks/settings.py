"""Settings are models: each key, its type, range, default and a line of help are written once.

What is wrong is one `ValueError` of one line: the dotted key, what was given, what is allowed, the nearest right word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

Schema = Mapping[str, Any]


class Settings(BaseModel):
    """The keys of one group of settings, checked when they are made; then they never change.

    Attributes:
        group: what its keys begin with where a user types them: `task` for `task.lr`; empty: nothing.

    Raises:
        ValueError: in one line: a key that does not exist, or a value that is impossible or without effect.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    group: ClassVar[str] = ""

    def __init__(self, /, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise ValueError(" ".join(_told(type(self), error).split())) from None

    @model_validator(mode="after")
    def _check_owners(self) -> Self:
        """Refuse a key that another key's value leaves without effect."""
        for name, field in type(self).model_fields.items():
            for owner, choices in (self.said_of(name, "only_for") or {}).items():
                if getattr(self, name) != field.default and getattr(self, owner) not in choices:
                    key, owned = self.key(name), self.key(owner)
                    raise ValueError(
                        f"{key} has no meaning for {owned}={shown(getattr(self, owner))}; "
                        f"it belongs to {owned}={' or '.join(map(shown, choices))}"
                    )
        return self

    tunable: ClassVar[tuple[str, ...]] = ()
    """Keys that recipes may choose on data that are held out."""

    def tuned(self, own: Mapping[str, Any]) -> Self:
        """The same with hyperparameters of a recipe's own.

        Raises:
            ValueError: one that there is not, with the nearest right one, or an impossible value.
        """
        for key in own:
            if key not in self.tunable:
                raise unknown("hyperparameter to tune", key, self.tunable)
        return self.replace(**own)

    def places(self) -> list[Path]:
        """The files and folders whose content decides the result, whether or not they are there."""
        return []

    def own_folder(self) -> tuple[str, ...]:
        """What is scored instead of what is by default; its results have a folder of this name."""
        return ()

    def refuses(self, recipe: Any) -> str:
        """Why a `tasks.training.recipe.Recipe` cannot be trained with these settings; empty where it can."""
        return ""

    def replace(self, **changes: Any) -> Self:
        """The same with other values, checked again."""
        now = {name: getattr(self, name) for name in type(self).model_fields} | (self.model_extra or {})
        return type(self)(**now | changes)

    @classmethod
    def schema_of_keys(cls) -> Mapping[str, Schema]:
        """What JSON Schema says about each key."""
        if "_schema" not in cls.__dict__:
            cls._schema = cls.model_json_schema().get("properties", {})
        return cls._schema

    @classmethod
    def said_of(cls, name: str, what: str) -> Any:
        """What `setting` was told of a key beyond its type, or None."""
        extra = cls.model_fields[name].json_schema_extra if name in cls.model_fields else None
        return extra.get(what) if isinstance(extra, dict) else None

    @classmethod
    def key(cls, name: str) -> str:
        """The name as a user types it."""
        own = cls.said_of(name, "group")
        return ".".join(part for part in (cls.group if own is None else own, name) if part)

    @classmethod
    def is_mapping(cls, name: str) -> bool:
        """Whether a key holds keys of its own, which are not known here."""
        schema = cls.schema_of_keys()[name]
        return any(part.get("type") == "object" for part in schema.get("anyOf", [schema]))

    @classmethod
    def values_of(cls, name: str) -> list[Any]:
        """The values that a key can have, where they are a fixed list; else, or where there is no such key, none."""
        return _options(cls.schema_of_keys().get(name, {}))

    _schema: ClassVar[Mapping[str, Schema]]


def setting(
    default: Any,
    about: str,
    *,
    group: str | None = None,
    only_for: Mapping[str, Iterable[Any]] | None = None,
    follows: str | None = None,
    **constraints: Any,
) -> Any:
    """A key of `Settings`.

    Args:
        default: `...`: it must be given.
        about: one line of help.
        group: where a user sets it, if that is not the group of its class: `data` for `data.root`.
        only_for: it has no meaning unless another key has one of these values: `{"schedule": ["step"]}`.
        follows: the key of a run whose value is the default where settings are composed: `threads`.
        constraints: as of `pydantic.Field`: `ge=1`, `examples=[0.1]`.
    """
    extra = {"group": group, "only_for": only_for, "follows": follows}
    told: Any = {key: value for key, value in extra.items() if value is not None}
    return Field(default, description=about, json_schema_extra=told, **constraints)


def each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Raise ValueError where a value is there twice."""
    if len(set(values)) < len(values):
        raise ValueError("each only once")
    return values


def _whole(given: object) -> object:
    if type(given) is not int:
        raise PydanticCustomError("whole", "a whole number")
    return given


OneOfWhole = BeforeValidator(_whole)
"""For a `Literal` of whole numbers: 2.0 is none."""
Lax = Field(strict=False)
"""For a tuple: a list will do."""
Width = Annotated[float, Field(gt=0, le=1)]
Widths = Annotated[tuple[Width, ...], Lax, Field(min_length=1, examples=[[0.25, 0.5, 1.0]]), AfterValidator(each_once)]
Fractions = Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Lax]
Words = Annotated[tuple[str, ...], Lax]
if TYPE_CHECKING:
    Plain = Mapping[str, Any]
else:
    Plain = Mapping[str, JsonValue]  # keys and values that only their reader knows


def unknown(what: str, given: object, allowed: Iterable[object]) -> ValueError:
    """The error for a word that does not exist: `unknown width rule 'sandwitch'; did you mean 'sandwich'?`

    Where dotted keys have the same parent, what follows it decides which is the nearest.
    """
    names, (parent, dot, end) = [str(name) for name in allowed], str(given).rpartition(".")
    same = [name for name in names if dot and name.rpartition(".")[0] == parent]
    ends = {name.rpartition(".")[2]: name for name in [*names, *same]} if same else {name: name for name in names}
    close = get_close_matches(end if same else str(given), ends, n=1, cutoff=0.5)
    all_of_them = ", ".join(f'"{name}"' if "," in name else name for name in names)  # as only=[...] takes them
    advice = f"choose one of {all_of_them}"
    if close:
        advice = f"did you mean '{ends[close[0]]}'?" + (f" (there are: {all_of_them})" if len(names) <= 10 else "")
    return ValueError(f"unknown {what} '{given}'; {advice}")


@dataclass(frozen=True)
class Key:
    """A key as a user sees it: `task.lr`, `a number above 0`, `0.5`, and a line of help."""

    name: str
    allowed: str
    default: str
    about: str


def keys_of(settings: type[Settings]) -> Iterator[Key]:
    """All keys of a group, for help and documentation."""
    for name, field in settings.model_fields.items():
        schema = settings.schema_of_keys()[name]
        about = schema.get("description", "")
        for owner, choices in schema.get("only_for", {}).items():
            about += f" (only for {settings.key(owner)}={' or '.join(map(shown, choices))})"
        default = "must be given" if field.is_required() else shown(field.default)
        yield Key(settings.key(name), allowed(schema), default, about)


def shown(value: object) -> str:
    """A value as it is typed: `[0.25, 1.0]`, `{a: 1}`, `true`, `null`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value) or '""'


def allowed(schema: Schema) -> str:
    """What a key's JSON Schema allows, in words."""
    if "anyOf" in schema:
        return ", or ".join(map(allowed, schema["anyOf"]))
    if options := _options(schema):
        return f"one of {', '.join(map(shown, options))}" if len(options) > 1 else shown(options[0])
    words = {
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
        "string": "a folder" if schema.get("format") == "path" else "text",
        "array": "a list",
        "object": "keys and values",
        "null": "null",
    }[schema["type"]]
    if schema.get("minLength"):
        words += " that is not empty"
    if schema["type"] == "array":
        least, exactly = schema.get("minItems"), schema.get("maxItems")
        each = allowed(schema.get("items") or schema["prefixItems"][0])
        words += f" of {exactly} (" if exactly else " (at least one, " if least else " ("
        words += f"each {each})"
    return words + _range(schema)


def _range(schema: Schema) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    upper = f"at most {high}" if high is not None else f"below {below}" if below is not None else ""
    if above is not None:
        return f" above {above}" + (f" and {upper}" if upper else "")
    if low is not None:
        return f" from {low} to {upper.removeprefix('at most ')}" if upper else f", at least {low}"
    return f", {upper}" if upper else ""


def _options(schema: Schema) -> list[Any]:
    """The values of a fixed list, where the schema is one."""
    return list(schema["enum"]) if "enum" in schema else [schema["const"]] if "const" in schema else []


def _told(settings: type[Settings], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    kind, place, given = first["type"], first["loc"], first["input"]
    if kind == "value_error":
        reason = str(first["ctx"]["error"])
        return f"{settings.key(str(place[0]))}={given!r}: {reason}" if place else reason
    key = settings.key(str(place[0]))
    if kind == "extra_forbidden":
        return str(unknown("key", key, map(settings.key, settings.model_fields)))
    schema = part = settings.schema_of_keys()[str(place[0])]
    about = f" ({schema['description']})" if "description" in schema else ""
    if kind == "missing" and len(place) == 1:
        return f"{key} must be given: {allowed(schema)}{about}"
    if place[-1] == "[key]":
        return f"{key}: the key {given!r} must be a word; '{given}' in quotes is one"
    if len(place) > 1 and schema.get("type") == "array" and kind != "missing":
        part = schema.get("items") or schema["prefixItems"][0]
    elif len(place) > 1 and schema.get("type") == "object":
        return f"{key}: {given!r} is no plain value, such as a number, text or a list{about}"
    options = [option for either in part.get("anyOf", [part]) for option in _options(either)]
    if options and isinstance(given, str):
        return str(unknown(key, given, options))
    example = schema.get("examples", [schema.get("default")])[0]
    hint = f", for example {shown(example)}" if example and not options else ""
    if part.get("type") == "string" and not options and isinstance(given, int | float | list):
        text = f'"{shown(given)}"'
        hint = f"; in quotes it is: '{key}={text if part is schema else f'[{text}]'}'"
    return f"{key}={given!r} must be {allowed(part)}{hint}{about}"
