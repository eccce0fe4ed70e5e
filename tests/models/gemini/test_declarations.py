"""Schemas in the keywords and forms that the Gemini API takes."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offhook.gateway.models.gemini.declarations import declared_parameters
from offhook.gateway.rehearsal.model.declarations import Function, wrong_functions
from offhook.gateway.tools.schema import Arguments, inlined


def of(schema: Any) -> Any:
    return declared_parameters({"type": "object", "properties": {"v": schema}})["properties"]["v"]


@pytest.mark.parametrize(
    ("schema", "declared"),
    [
        ({"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^a"}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"type": "string", "enum": ["", "a"]}, {"type": "string", "enum": ["a"]}),
        ({"type": "string", "enum": ["a", None]}, {"type": "string", "enum": ["a"], "nullable": True}),
        ({"enum": [1, 2]}, {"type": "number", "description": "One of: 1, 2."}),
        ({"type": "integer", "enum": ["1"]}, {"type": "integer", "description": 'One of: "1".'}),
        ({"enum": [True, "x"]}, {"description": 'One of: true, "x".'}),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "integer", "minimum": 1}),
        ({"type": "number", "exclusiveMaximum": 9}, {"type": "number", "description": "Less than 9."}),
        ({"type": "array"}, {"type": "array", "items": {"type": "string"}}),
        ({"type": "array", "items": [{"type": "string"}]}, {"type": "array", "prefixItems": [{"type": "string"}]}),
        ({"type": "string", "format": "email"}, {"type": "string", "description": "Format: email."}),
        ({"type": "string", "format": "date-time"}, {"type": "string", "format": "date-time"}),
        ({"type": "string", "format": "time"}, {"type": "string", "description": "Format: time, as in 14:30:00."}),
        ({"type": "integer", "format": "int64"}, {"type": "integer", "format": "int64"}),
        ({"type": "integer", "format": "uint8"}, {"type": "integer", "description": "Format: uint8."}),
        ({"type": "string", "minItems": 1, "minLength": 2.0}, {"type": "string", "minLength": 2}),
        ({"type": "string", "nullable": "yes"}, {"type": "string"}),
        ({"type": ["string", "null"], "maxLength": 3}, {"type": "string", "maxLength": 3, "nullable": True}),
        ({"type": ["object", "null"], "properties": {"a": True}},
         {"type": "object", "properties": {"a": {}}, "nullable": True}),
        ({"type": ["integer", "string"], "minimum": 1, "pattern": "^a", "description": "Which."},
         {"anyOf": [{"type": "integer", "minimum": 1, "description": "Which."}, {"type": "string", "pattern": "^a"}]}),
        ({"description": "When.", "anyOf": [{"type": "integer", "description": "Year."}, {"type": "boolean"}]},
         {"anyOf": [{"type": "integer", "description": "When. Year."}, {"type": "boolean"}]}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "default": "a"},
         {"type": "string", "nullable": True, "default": "a"}),
        ({"anyOf": [{"type": "string"}, {}], "description": "Any."}, {"description": "Any."}),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}]},
         {"type": "object", "properties": {"a": {"type": "string"}},
          "description": 'It must also fit one of: [{"required": ["a"]}].'}),
        ({"type": "object", "properties": {}, "required": []}, {"type": "object"}),
        ({"properties": {"a": True}}, {"type": "object", "properties": {"a": {}}}),
        ({"type": "array", "items": True}, {"type": "array", "items": {"type": "string"}}),
        ({"oneOf": [{"type": "string"}, False]}, {"type": "string"}),
        ({"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {}}}]},
         {"type": "object", "required": ["a"], "properties": {"a": {}}}),
        ({"type": "object", "properties": {"a": {}, "b": False}, "required": ["a", "b", "c"]},
         {"type": "object", "properties": {"a": {}}, "required": ["a"]}),
        ({"type": "object", "propertyNames": {}, "if": {}, "$comment": "x", "x-order": 1, "examples": [1],
          "patternProperties": {"^a": {}}, "unevaluatedProperties": False}, {"type": "object"}),
        (True, {}),
    ],
)  # fmt: skip
def test_a_schema_is_declared_as_the_api_takes_it(schema: Any, declared: Any) -> None:
    assert of(schema) == declared


def test_a_property_named_like_a_keyword_is_kept() -> None:
    properties = {"if": {"type": "string"}, "title": {"type": "string"}, "$ref": {"type": "string"}}
    assert declared_parameters({"properties": properties})["properties"] == properties


def test_parameters_are_of_type_object() -> None:
    assert declared_parameters({"type": ["object", "null"]}) == {"type": "object"}
    assert declared_parameters({}) == {"type": "object"}


def test_a_deep_schema_is_cut_with_a_note() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        schema = {"type": "object", "properties": {"a": schema}}
    text = json.dumps(declared_parameters(schema))
    assert text.count('"properties"') < 30
    assert "Nested further, as in this JSON schema:" in text
    assert len(text) < 2_000


NAMES = st.sampled_from(["a", "b-c", "$ref", "type", "properties"])
TEXTS = st.text(max_size=5)
NUMBERS = st.integers(-5, 5) | st.floats(-5, 5)
COUNTS = st.integers(0, 5) | st.sampled_from([0.0, 2.0])
VALUES = st.none() | st.booleans() | NUMBERS | TEXTS | st.lists(TEXTS, max_size=2)
TYPES = st.sampled_from(["string", "number", "integer", "boolean", "array", "object", "null"])
WORDS: dict[str, st.SearchStrategy[Any]] = {
    "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
    "description": TEXTS,
    "title": TEXTS,
    "format": st.sampled_from(["date-time", "date", "time", "int32", "uuid", "email", ""]),
    "enum": st.lists(VALUES, min_size=1, max_size=3, unique_by=repr),
    "const": VALUES,
    "default": VALUES,
    "examples": st.lists(VALUES, max_size=2),
    "nullable": VALUES,
    "minimum": NUMBERS,
    "exclusiveMinimum": NUMBERS,
    "exclusiveMaximum": NUMBERS,
    "multipleOf": st.integers(1, 5),
    "minLength": COUNTS,
    "maxItems": COUNTS,
    "minProperties": COUNTS,
    "pattern": st.sampled_from(["^a", "[0-9]+"]),
    "required": st.lists(NAMES, max_size=3, unique=True),
    "uniqueItems": st.booleans(),
    "x-order": VALUES,
}


def schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    nested = {
        **dict.fromkeys(("items", "additionalProperties", "not", "if", "propertyNames", "contains"), inner),
        **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), some),
        **dict.fromkeys(("properties", "patternProperties"), st.dictionaries(NAMES, inner, max_size=3)),
    }
    return st.fixed_dictionaries({}, optional={**WORDS, **nested})


SCHEMAS = st.recursive(st.booleans() | st.fixed_dictionaries({}, optional=WORDS), schemas, max_leaves=12)


@pytest.mark.parametrize(
    ("schema", "declared"),
    [
        ({}, {"type": "string", "description": "Any value; a list or an object as JSON."}),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {"type": "object"}),
        ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
         {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}),
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
    ],
)  # fmt: skip
def test_the_apis_own_schema_has_fewer_forms(schema: Any, declared: Any) -> None:
    parameters = declared_parameters({"properties": {"v": schema}}, as_json=False)
    assert parameters["properties"]["v"] == declared


FORMS = [(False, True), (True, True), (True, False)]  # of Vertex AI; as a JSON schema


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(schema=st.dictionaries(NAMES, SCHEMAS, min_size=1, max_size=3), rest=SCHEMAS)
def test_any_schema_is_declared_as_the_api_takes_it(schema: Any, rest: Any) -> None:
    """In each form: schemas cost more to make up than to declare."""
    parameters = inlined({**(rest if isinstance(rest, dict) else {}), "properties": schema, "type": "object"})
    Arguments(parameters)  # a valid schema: no other becomes a tool
    for vertex, as_json in FORMS:
        kind = "parameters_json_schema" if as_json else "parameters"
        function = Function(name="f", **{kind: declared_parameters(deepcopy(parameters), as_json=as_json)})
        assert wrong_functions([function], vertex=vertex) is None, (vertex, as_json)
