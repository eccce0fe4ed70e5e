"""Schemas in the keywords and forms that the Gemini API takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from offhook.gateway.models.gemini.declarations import declared_parameters


def of(schema: Any) -> Any:
    return declared_parameters({"type": "object", "properties": {"v": schema}})["properties"]["v"]


@pytest.mark.parametrize(
    ("schema", "declared"),
    [
        ({"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^a"}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"type": "string", "enum": ["", "a"]}, {"type": "string", "enum": ["a"]}),
        ({"enum": [1, 2]}, {"type": "number", "enum": [1, 2]}),
        ({"enum": [True, "x"]}, {"description": 'One of: true, "x".'}),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "integer", "minimum": 1}),
        ({"type": "number", "exclusiveMaximum": 9}, {"type": "number", "description": "Less than 9."}),
        ({"type": "array"}, {"type": "array", "items": {"type": "string"}}),
        ({"type": "array", "items": [{"type": "string"}]}, {"type": "array", "prefixItems": [{"type": "string"}]}),
        ({"type": "string", "format": "email"}, {"type": "string", "description": "Format: email."}),
        ({"type": "string", "format": "date-time"}, {"type": "string", "format": "date-time"}),
        ({"oneOf": [{"type": "string"}, False]}, {"anyOf": [{"type": "string"}]}),
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


def test_a_deep_schema_is_cut_with_a_note() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        schema = {"type": "object", "properties": {"a": schema}}
    text = json.dumps(declared_parameters(schema))
    assert text.count('"properties"') < 30
    assert "Nested further; not described." in text
