"""Settings refuse what is wrong in one line, and say of every key what is allowed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from tasks.settings import OneOfWhole, Settings, Widths, Words, allowed, keys_of, setting, shown


class Kitchen(Settings):
    """One key of each kind."""

    group: ClassVar[str] = "kitchen"

    oven: Literal["gas", "wood", "electric"] = setting("gas", "what it burns")
    plates: Annotated[Literal[2, 4], OneOfWhole] = setting(4, "to cook on")
    cooks: int = setting(1, "at work", ge=1)
    share: float = setting(0.0, "of the day", ge=0, lt=1, examples=[0.5])
    salt: float | None = setting(None, "in grams", gt=0)
    heat: Literal["low", "high"] | float = setting("low", "or degrees")
    logs: int = setting(0, "at once", ge=0, only_for={"oven": ["wood"]})
    sizes: Widths = setting((0.5, 1.0), "of pans")
    bowls: Words = setting((), "their names", group="shelf")
    span: Annotated[tuple[float, float], Field(strict=False)] = setting((0.0, 1.0), "of time")
    more: Mapping[str, Any] = setting({}, "for the chef")
    open: bool = setting(True, "today")
    name: str = setting(..., "on the door", min_length=1)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"oven": "gaz"}, "unknown kitchen.oven 'gaz'; did you mean 'gas'? (there are: gas, wood, electric)"),
        ({"oven": 3}, "kitchen.oven=3 must be one of gas, wood, electric"),
        ({"plates": 3}, "kitchen.plates=3 must be one of 2, 4"),
        ({"plates": 2.0}, "kitchen.plates=2.0 must be one of 2, 4"),
        ({"cooks": 0}, "kitchen.cooks=0 must be a whole number, at least 1, for example 1"),
        ({"cooks": True}, "kitchen.cooks=True must be a whole number, at least 1, for example 1"),
        ({"cooks": 2.0}, "kitchen.cooks=2.0 must be a whole number, at least 1, for example 1"),
        ({"share": 1}, "kitchen.share=1 must be a number from 0 to below 1, for example 0.5"),
        ({"share": float("nan")}, "kitchen.share=nan must be a number from 0 to below 1, for example 0.5"),
        ({"share": "1"}, "kitchen.share='1' must be a number from 0 to below 1, for example 0.5"),
        ({"salt": 0}, "kitchen.salt=0 must be a number above 0, or null"),
        ({"heat": "hig"}, "unknown kitchen.heat 'hig'; did you mean 'high'? (there are: low, high)"),
        ({"heat": []}, "kitchen.heat=[] must be one of low, high, or a number"),
        ({"logs": 3}, "kitchen.logs has no meaning for kitchen.oven=gas; it belongs to kitchen.oven=wood"),
        ({"sizes": 0.5}, "kitchen.sizes=0.5 must be a list (at least one, each a number above 0 and at most 1), for"),
        ({"sizes": []}, "kitchen.sizes=[] must be a list (at least one, "),
        ({"sizes": [0.5, 2]}, "kitchen.sizes=2 must be a number above 0 and at most 1, for example [0.25, 0.5, 1.0]"),
        ({"sizes": [1.0, 1]}, "kitchen.sizes=[1.0, 1]: each only once"),
        ({"bowls": "red"}, "shelf.bowls='red' must be a list (each text)"),
        ({"bowls": [5]}, "shelf.bowls=5 must be text"),
        ({"span": [0.5]}, "kitchen.span=[0.5] must be a list of 2 (each a number), for example [0.0, 1.0]"),
        ({"span": [1, 2, 3]}, "kitchen.span=[1, 2, 3] must be a list of 2 (each a number), for example [0.0, 1.0]"),
        ({"span": [1, "2"]}, "kitchen.span='2' must be a number"),
        ({"more": [1]}, "kitchen.more=[1] must be keys and values"),
        ({"more": {1: 2}}, "kitchen.more: the key 1 must be a word; '1' in quotes is one"),
        ({"open": 1}, "kitchen.open=1 must be true or false"),
        ({"name": ""}, "kitchen.name='' must be text that is not empty"),
        ({"ovn": "gas"}, "unknown key 'kitchen.ovn'; did you mean 'kitchen.oven'?"),
        ({"bowl": []}, "unknown key 'kitchen.bowl'; did you mean 'shelf.bowls'?"),
        ({"zzz": 1}, "unknown key 'kitchen.zzz'; choose one of kitchen.oven, "),
        ({"self": 1}, "unknown key 'kitchen.self'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as error:
        Kitchen(**{"name": "blue"} | wrong)
    assert type(error.value) is ValueError
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_must_be_given_is_asked_for() -> None:
    with pytest.raises(ValueError, match="kitchen.name must be given: text that is not empty"):
        Kitchen()


def test_what_is_equal_is_kept_equal() -> None:
    kitchen = Kitchen(name="blue", sizes=[1, 0.5], share=0, salt=2, oven="wood", logs=3)
    assert kitchen.model_dump() == Kitchen(name="blue", sizes=(1.0, 0.5), salt=2.0, oven="wood", logs=3).model_dump()
    assert isinstance(kitchen.share, float) and isinstance(kitchen.sizes[0], float)
    assert pickle.loads(pickle.dumps(kitchen)) == kitchen


def test_settings_are_replaced_and_never_changed() -> None:
    kitchen = Kitchen(name="blue")
    assert kitchen.replace(cooks=2).cooks == 2 and kitchen.cooks == 1
    with pytest.raises(ValueError, match="kitchen.cooks=0 must be"):
        kitchen.replace(cooks=0)
    with pytest.raises(ValueError, match="frozen"):
        kitchen.cooks = 3  # type: ignore[misc]


def test_every_key_says_what_it_allows() -> None:
    found = {key.name: key for key in keys_of(Kitchen)}
    assert len(found) == len(Kitchen.model_fields)
    assert found["kitchen.logs"].about == "at once (only for kitchen.oven=wood)"
    assert (found["kitchen.name"].default, found["kitchen.open"].default) == ("must be given", "true")
    assert found["shelf.bowls"].allowed == "a list (each text)"
    assert found["kitchen.salt"].allowed == "a number above 0, or null"


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 0, "maximum": 3}, "a whole number from 0 to 3"),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "a number above 0 and below 1"),
        ({"type": "number", "maximum": 1}, "a number, at most 1"),
        ({"const": "one"}, "one"),
    ],
)
def test_ranges_in_words(schema: dict[str, Any], words: str) -> None:
    assert allowed(schema) == words


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*Kitchen.model_fields, "x"]), values, max_size=3))
def test_any_value_is_taken_or_refused_in_one_line(wrong: dict[str, Any]) -> None:
    try:
        Kitchen(**{"name": "blue"} | wrong)
    except ValueError as error:
        assert type(error) is ValueError and str(error) and "\n" not in str(error)


def test_values_are_shown_as_they_are_typed() -> None:
    assert shown({"a": [1, 0.5, None], "b": True, "c": ""}) == '{a: [1, 0.5, null], b: true, c: ""}'
