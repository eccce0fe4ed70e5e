"""Function declarations that the service refuses: each rule, in both forms of a schema."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.gateway.rehearsal.model.declarations import Function, wrong_functions
from offhook.gateway.rehearsal.model.wire import SessionRefused, checked_setup

OBJECT: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def refusal(schema: Any, *, as_json: bool = True, vertex: bool = False) -> str | None:
    kind = "parameters_json_schema" if as_json else "parameters"
    return wrong_functions([Function(name="f", **{kind: schema})], vertex=vertex)


def of(schema: Any, **how: bool) -> str | None:
    return refusal({"type": "object", "properties": {"v": schema}}, **how)


@pytest.mark.parametrize("name", ["", "2fa_send", "a b", "na\u00efve", "-a", "a" * 129, "a/b"])
def test_a_refused_name(name: str) -> None:
    assert "Invalid function name" in (wrong_functions([Function(name=name)], vertex=False) or "")


@pytest.mark.parametrize("name", ["_2fa_send", "a.b:c-d", "a" * 128, "A"])
def test_a_name_that_is_taken(name: str) -> None:
    assert wrong_functions([Function(name=name)], vertex=False) is None


def test_two_functions_of_one_name_are_refused() -> None:
    twice = [Function(name="f"), Function(name="f", description="Another.")]
    assert wrong_functions(twice, vertex=False) == "Duplicate function declaration found: f"


@pytest.mark.parametrize(("count", "taken"), [(512, True), (513, False)])
def test_number_of_functions_is_bounded(count: int, taken: bool) -> None:
    wrong = wrong_functions([Function(name=f"f{i}") for i in range(count)], vertex=False)
    assert wrong is None if taken else "At most 512" in (wrong or "")


def test_both_forms_at_once_are_refused() -> None:
    function = Function(name="f", parameters=OBJECT, parameters_json_schema=OBJECT)
    assert "mutually exclusive" in (wrong_functions([function], vertex=False) or "")


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "array"}, "properties[v].items: missing field"),
        ({"type": "array", "items": {"type": "array"}}, "properties[v].items.items: missing field"),
        ({"type": "object", "properties": {}}, "should be non-empty for OBJECT type"),
        ({"type": "object", "required": ["a"]}, "required[0]: property is not defined"),
        ({"type": "string", "properties": {"a": {"type": "string"}}}, "properties: only allowed for OBJECT type"),
        ({"type": "string", "items": {"type": "string"}}, "items: only allowed for ARRAY type"),
        ({"type": "string", "enum": []}, "enum: should be non-empty"),
        ({"type": "string", "enum": ["", "a"]}, "enum[0]: cannot be empty"),
        ({"type": "boolean", "enum": ["a"]}, "enum: only allowed for STRING type"),
        ({"type": "string", "enum": [1]}, "enum[0]' (TYPE_STRING), 1"),
        ({"type": "string", "format": "date"}, "format: only 'enum' and 'date-time' are supported for STRING type"),
        ({"type": "boolean", "format": "date-time"}, "format is only supported for NUMBER, INTEGER and STRING type"),
        ({"type": "integer", "format": "float"}, "only 'int64' and 'int32' are supported for INTEGER type"),
        ({"type": "string", "const": "a"}, 'Unknown name "const"'),
        ({"type": "integer", "exclusiveMinimum": 0}, 'Unknown name "exclusiveMinimum"'),
        ({"type": "object", "propertyNames": {}}, 'Unknown name "propertyNames"'),
        ({"type": "date"}, 'type\' (Type), "date"'),
        ({"type": "string", "description": 7}, "description' (TYPE_STRING), 7"),
        ({"type": "string", "minLength": -1}, "minLength' (TYPE_INT64), -1"),
        ({"type": "number", "minimum": "a"}, "minimum' (TYPE_DOUBLE), a"),
        ({"type": "string", "nullable": "yes"}, "nullable' (TYPE_BOOL), yes"),
        (True, "properties[v]' (Schema), True"),
        (nested(5), "exceeds the maximum allowed nesting depth"),
    ],
)
def test_a_refused_schema(schema: Any, says: str, as_json: bool) -> None:
    assert says in (of(schema, as_json=as_json) or "")


@pytest.mark.parametrize(
    ("schema", "how", "says"),
    [
        ({}, {"as_json": False}, "type: must be specified"),
        ({"type": ["string", "null"]}, {"as_json": False}, "Proto field is not repeating"),
        ({"type": "object", "additionalProperties": True}, {"as_json": False}, 'Unknown name "additionalProperties"'),
        ({"type": "integer", "enum": [1]}, {"as_json": False}, "only allowed for STRING type"),
        ({"type": ["object", "null"], "properties": {"a": {}}}, {}, "only allowed for OBJECT type"),
        ({"description": "x", "anyOf": [{"type": "string"}]}, {"vertex": True}, "it must be the only field set"),
    ],
)
def test_what_one_form_or_platform_refuses(schema: Any, how: dict[str, bool], says: str) -> None:
    assert says in (of(schema, **how) or "")


@pytest.mark.parametrize(
    ("schema", "how"),
    [
        ({}, {}),
        ({"type": ["string", "null"]}, {}),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {}),
        ({"type": "integer", "enum": [1, 2]}, {}),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, {}),
        ({"description": "x", "anyOf": [{"type": "string"}]}, {}),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, {"vertex": True}),
        ({"type": "STRING", "format": "enum", "enum": ["a"], "default": 3, "maxLength": "5"}, {"as_json": False}),
        ({"type": "OBJECT"}, {"as_json": False}),
        ({"any_of": [{"type": "STRING", "max_length": 3}, {"type": "INTEGER"}]}, {"as_json": False}),
        (nested(4), {}),
    ],
)
def test_a_schema_that_is_taken(schema: Any, how: dict[str, bool]) -> None:
    assert of(schema, **how) is None


WORDS = [
    "type",
    "enum",
    "format",
    "required",
    "properties",
    "items",
    "anyOf",
    "minimum",
    "minItems",
    "nullable",
    "$ref",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "object", "array", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(), inner, max_size=4),
    max_leaves=15,
)


@settings(deadline=None)
@given(schema=st.dictionaries(st.sampled_from(WORDS), JSON), as_json=st.booleans())
def test_anything_is_taken_or_refused(schema: Any, as_json: bool) -> None:
    assert isinstance(of(schema, as_json=as_json), str | None)


@pytest.mark.parametrize("schema", [{"type": "array", "items": {"type": "string"}}, {"type": "string"}, [], "object"])
def test_parameters_that_are_no_object_are_refused(schema: Any) -> None:
    assert refusal(schema) is not None


def test_a_setup_is_refused_for_its_functions() -> None:
    raw = {"model": "models/gemini-3.8-live", "tools": [{"functionDeclarations": [{"name": "2fa"}]}]}
    with pytest.raises(SessionRefused) as refused:
        checked_setup(raw, "v1beta", vertex=False)
    assert refused.value.code == 1007
    assert "tools[0].function_declarations[0].name" in refused.value.reason
