"""Arguments against a JSON schema: converted where nothing is lost, refused in words a model can act upon."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.gateway.observe.redact import Redactor
from offhook.gateway.tools.schema import Arguments, BadArguments, inlined


def checked(schema: dict[str, Any], value: Any) -> dict[str, Any]:
    return Arguments(schema).checked(value)


def of(schema: dict[str, Any], value: Any) -> Any:
    return checked({"properties": {"v": schema}, "required": ["v"]}, {"v": value})["v"]


@pytest.mark.parametrize(
    ("schema", "value", "result"),
    [
        ({"type": "integer"}, 3.0, 3),
        ({"type": "integer"}, " 3 ", 3),
        ({"type": "number"}, "2.5", 2.5),
        ({"type": "number"}, 3, 3),
        ({"type": "string"}, 7, "7"),
        ({"type": "boolean"}, "True", True),
        ({"type": ["integer", "null"]}, None, None),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "3", "3"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "3", 3),
        ({"type": "array", "items": {"type": "integer"}}, ["1", 2], [1, 2]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"a": "1"}, {"a": 1}),
        ({"enum": ["a", 2]}, 2, 2),
        ({"type": "string", "pattern": r"^\d+$"}, "12", "12"),
        ({}, {"any": ["thing"]}, {"any": ["thing"]}),
    ],
)
def test_an_equivalent_value_is_converted(schema: dict[str, Any], value: Any, result: Any) -> None:
    found = of(schema, value)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("schema", "value", "says"),
    [
        ({"type": "integer"}, 3.5, "v must be a whole number, not 3.5."),
        ({"type": "integer"}, True, "v must be a whole number, not True."),
        ({"type": "number"}, "inf", "v must be a number, not 'inf'."),
        ({"type": "number"}, "many", "v must be a number, not 'many'."),
        ({"type": "string"}, True, "v must be text, not True."),
        ({"type": "string"}, None, "v must be text, not None."),
        ({"type": "boolean"}, 1, "v must be true or false, not 1."),
        ({"type": "array"}, "a", "v must be a list, not 'a'."),
        ({"type": "string", "maxLength": 3}, "abcd", "v must be at most 3 characters long."),
        ({"type": "array", "minItems": 1}, [], "v must be at least 1 items long."),
        ({"type": "integer", "minimum": 1}, 0, "v must be at least 1."),
        ({"type": "integer", "exclusiveMaximum": 9}, 9, "v must be less than 9."),
        ({"type": "string", "pattern": "^a"}, "b", "v does not look right: it must match ^a."),
        ({"const": "yes"}, "no", "v must be yes, not 'no'."),
        ({"type": "string", "format": "date"}, "tomorrow", "v must be a date such as 2026-03-31, not 'tomorrow'."),
        ({"enum": ["a", "b"]}, "c", "v must be one of a, b, not 'c'."),
        (
            {"type": "array", "items": {"properties": {"n": {"type": "integer"}}}},
            [{"n": "x"}],
            "v[0].n must be a whole",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_explained(schema: dict[str, Any], value: Any, says: str) -> None:
    with pytest.raises(BadArguments) as error:
        of(schema, value)
    assert str(error.value).startswith(says)


def test_a_long_wrong_value_is_shown_in_part() -> None:
    with pytest.raises(BadArguments) as error:
        of({"type": "integer"}, "x" * 100_000)
    assert len(str(error.value)) < 150


@pytest.mark.parametrize("value", ["x" * 50 + " s3cret-long-one", ["x" * 50, "s3cret-long-one"]])
def test_no_half_of_a_secret_is_shown(value: Any) -> None:
    with pytest.raises(BadArguments) as error:
        of({"type": "integer"}, value)
    assert "s3c" in str(error.value)
    assert "s3c" not in error.value.told(Redactor(["s3cret-long-one"]))


def test_null_for_an_optional_parameter_is_absent() -> None:
    schema = {"properties": {"a": {"type": "integer"}, "b": {"type": ["string", "null"]}}}
    assert checked(schema, {"a": None, "b": None}) == {"b": None}


def test_a_tool_without_parameters_accepts_anything() -> None:
    assert checked({"type": "object"}, {"a": 1}) == {"a": 1}
    assert checked({}, None) == {}


def test_references_are_put_in_their_places() -> None:
    schema = {
        "$ref": "#/$defs/args",
        "$defs": {
            "args": {"type": "object", "title": "args", "properties": {"title": {"$ref": "#/$defs/t"}, "o": {
                "anyOf": [{"$ref": "#/$defs/t"}, {"type": "null"}], "default": None}}},
            "t": {"enum": ["x"], "title": "T"},
        },
    }  # fmt: skip
    text = {"enum": ["x"], "type": "string"}
    assert inlined(schema) == {"type": "object", "properties": {"title": text, "o": text}}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"$ref": "#/$defs/b"}, "#/\\$defs/b is not defined"),
        ({"$ref": "https://example.com/x.json"}, "another document"),
        ({"$ref": "#named"}, "#named is not defined"),
        ({"$defs": {str(n): {"items": [{"$ref": f"#/$defs/{n + 1}"}] * 4} for n in range(20)}
          | {"20": {}}, "$ref": "#/$defs/0"}, "too large"),
    ],
)  # fmt: skip
def test_an_unresolvable_reference_is_refused(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        inlined(schema)


STREET = {"type": "object", "properties": {"street": {"type": "string"}}}


@pytest.mark.parametrize(
    ("schema", "property_", "expected"),
    [
        ({"properties": {"home": STREET, "work": {"$ref": "#/properties/home"}}}, "work", STREET),
        ({"$defs": {"Page[Item]": STREET}, "properties": {"p": {"$ref": "#/$defs/Page%5BItem%5D"}}}, "p", STREET),
        ({"$defs": {"a/b~c": STREET}, "properties": {"p": {"$ref": "#/$defs/a~1b~0c"}}}, "p", STREET),
        ({"$defs": {"a": {"Item": STREET}, "b": {"Item": {"type": "integer"}}},
          "properties": {"p": {"$ref": "#/$defs/b/Item"}}}, "p", {"type": "integer"}),
        ({"$defs": {"l": [{}, STREET]}, "properties": {"p": {"$ref": "#/$defs/l/1"}}}, "p", STREET),
        ({"$defs": {"x": {"$anchor": "here", **STREET}}, "properties": {"p": {"$ref": "#here"}}}, "p", STREET),
        ({"$id": "https://a.example/s", "$defs": {"x": STREET},
          "properties": {"p": {"$ref": "https://a.example/s#/$defs/x"}}}, "p", STREET),
    ],
)  # fmt: skip
def test_a_reference_is_a_json_pointer(schema: dict[str, Any], property_: str, expected: Any) -> None:
    assert inlined(schema)["properties"][property_] == expected


def test_a_schema_inside_itself_is_cut_with_a_note() -> None:
    node = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}}}
    plain = inlined({"$defs": {"Node": node}, "properties": {"root": {"$ref": "#/$defs/Node"}}})
    inner = plain["properties"]["root"]["properties"]["children"]["items"]
    assert inner == {"type": "object", "description": "The same as Node above, nested; not described further."}
    assert checked(plain, {"root": {"children": [{"children": []}]}})


def test_a_schema_that_is_its_own_root_is_cut() -> None:
    plain = inlined({"type": "object", "properties": {"next": {"$ref": "#"}}})
    assert plain["properties"]["next"]["properties"]["next"]["type"] == "object"


@pytest.mark.parametrize(
    ("format_", "given", "expected"),
    [
        ("time", "14:30", "14:30:00"),
        ("time", "9:05", "09:05:00"),
        ("time", "14:30:15.5z", "14:30:15.5Z"),
        ("date-time", "2026-12-01T14:30", "2026-12-01T14:30:00"),
        ("date-time", "2026-12-01 14:30+01:00", "2026-12-01T14:30:00+01:00"),
        ("email", "no address", "no address"),
    ],
)
def test_a_time_without_seconds_is_a_time(format_: str, given: str, expected: str) -> None:
    assert of({"type": "string", "format": format_}, given) == expected


@pytest.mark.parametrize(
    ("format_", "given", "says"),
    [
        ("time", "half past two", "a time of day such as 14:30"),
        ("time", "25:00", "a time of day such as 14:30"),
        ("date-time", "14:30", "a date and time such as 2026-03-31T14:30:00"),
        ("date-time", "2026-02-30T14:30", "a date and time such as"),
    ],
)
def test_a_wrong_time_is_refused_with_a_form(format_: str, given: str, says: str) -> None:
    with pytest.raises(BadArguments, match=says):
        of({"type": "string", "format": format_}, given)


@pytest.mark.parametrize("value", ["\ud800", 10**30, float("nan"), float("inf")])
def test_an_odd_value_is_accepted_or_refused(value: Any) -> None:
    with pytest.raises(BadArguments):
        of({"type": "boolean"}, value)


def test_a_backtracking_pattern_blocks_no_loop() -> None:
    began_s = time.perf_counter()
    with pytest.raises(BadArguments, match="must match"):
        of({"type": "string", "pattern": "^(?=a)(a+)+$"}, "a" * 50 + "b")
    assert time.perf_counter() - began_s < 1.0


def test_a_wrong_name_is_reported_before_the_missing() -> None:
    with pytest.raises(BadArguments, match="There is no parameter 'naem': the parameters are name"):
        checked({"properties": {"name": {"type": "string"}}, "required": ["name"]}, {"naem": "Ann"})


def test_a_keyword_without_a_message_is_named() -> None:
    with pytest.raises(BadArguments, match="v does not fit: uniqueItems"):
        of({"type": "array", "uniqueItems": True}, [1, 1])


def test_properties_of_a_combined_schema_are_known() -> None:
    parts = [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "string"}}}]
    schema = {"type": "object", "allOf": parts, "properties": {"c": {}}}
    assert checked(schema, {"a": "1", "b": "x"}) == {"a": 1, "b": "x"}
    with pytest.raises(BadArguments, match="There is no parameter 'd': the parameters are c"):
        checked(schema, {"d": 1})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
SCHEMA = {
    "properties": {
        "n": {"type": "integer", "minimum": 0},
        "s": {"type": "string", "maxLength": 5},
        "l": {"type": "array", "items": {"anyOf": [{"type": "number"}, {"enum": ["a"]}]}},
        "o": {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
    }
}


@given(ANYTHING | st.dictionaries(st.sampled_from("nslox"), ANYTHING))
def test_any_value_is_accepted_or_refused(value: Any) -> None:
    try:
        result = checked(SCHEMA, value)
    except BadArguments:
        return
    assert checked(SCHEMA, result) == result or "nan" in str(result)
