"""What the service refuses in function declarations: names, numbers of them, and the schemas of their parameters.

A schema comes as `parametersJsonSchema` (JSON Schema) or as `parameters` (the API's own Schema, an OpenAPI subset),
and most rules hold for both. Where documentation and reports differ, the stricter one holds here: a rehearsal must not
pass what one version of the service refuses.

Sources: Google's reference of FunctionDeclaration and Schema (google-genai 3.4 repeats it); the service's own messages
as reported in gemini-cli 5923, 7869, 19083 and 25440, dotnet-genai 189, home-assistant/core 122403, livekit/agents
7302, opencode 11888, 15795 and 46676, probe 569, thClaws 172, copilot-cli 4623, gitlab-mcp 223, Portkey gateway 1616.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from msgspec import Struct

__all__ = ["Function", "wrong_functions"]

FUNCTIONS_MAX = 512
NESTED_MAX = 5  # objects and lists within each other; six are reported refused, the limit is not published
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_NAME_RULE = (
    "Invalid function name. Must start with a letter or an underscore. Must be a-z, A-Z, 0-9, or contain "
    "underscores (_), dots (.), colons (:), or dashes (-), with a maximum length of 128."
)

_TYPES = frozenset(("string", "number", "integer", "boolean", "array", "object", "null"))
_TEXTS = ("description", "title", "format", "pattern")
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_SCHEMA_WORDS = frozenset(
    (*_TEXTS, *_COUNTS, "type", "nullable", "enum", "items", "minimum", "maximum", "properties", "required", "anyOf")
) | {"default", "example", "propertyOrdering"}
_JSON_WORDS = _SCHEMA_WORDS | {"additionalProperties", "prefixItems", "oneOf", "$id", "$anchor", "$defs", "$ref"}
_OF_TYPE = {"properties": "object", "required": "object", "items": "array"}
_FORMATS = {
    "number": frozenset(("float", "double")),
    "integer": frozenset(("int32", "int64")),
    "string": frozenset(("enum", "date-time")),
}


class Function(Struct, rename="camel", forbid_unknown_fields=True):
    """A function declaration as it is received."""

    name: str
    description: str = ""
    behavior: Literal["UNSPECIFIED", "BLOCKING", "NON_BLOCKING"] = "UNSPECIFIED"
    parameters: dict[str, Any] | None = None
    parameters_json_schema: Any = None
    response: dict[str, Any] | None = None
    response_json_schema: Any = None


def wrong_functions(functions: Iterable[Function], *, vertex: bool) -> str | None:
    """The first rule that a declaration breaks, in the service's words; None when all are taken."""
    names: set[str] = set()
    for i, function in enumerate(functions):
        where = f"tools[0].function_declarations[{i}]"
        if not _NAME.fullmatch(function.name):
            return f"{where}.name: [FIELD_INVALID] {_NAME_RULE}"
        if function.name in names:
            return f"Duplicate function declaration found: {function.name}"
        names.add(function.name)
        if function.parameters is not None and function.parameters_json_schema is not None:
            return f"{where}: parameters and parameters_json_schema are mutually exclusive."
        as_json = function.parameters_json_schema is not None
        schema = function.parameters_json_schema if as_json else function.parameters
        if schema is None:
            continue
        wrong = next(_wrong(schema, f"{where}.parameters", as_json, vertex, 0), None)
        if wrong is not None:
            return wrong
        if _types(schema) != ["object"]:
            return f"{where}.parameters: parameters schema should be of type OBJECT."
    if len(names) > FUNCTIONS_MAX:
        rule = f"At most {FUNCTIONS_MAX} function declarations can be specified."
        return f"tools[0].function_declarations: [FIELD_INVALID] {rule}"
    return None


def _types(schema: Mapping[str, Any]) -> list[str]:
    kind = schema.get("type", [])
    return [str(name).lower() for name in (kind if isinstance(kind, list) else [kind])]


def _wrong(schema: Any, where: str, as_json: bool, vertex: bool, nested: int) -> Iterator[str]:
    """Each broken rule of a schema, outermost first. `nested`: the objects and lists around it."""
    if not isinstance(schema, Mapping):
        yield f"Invalid value at '{where}' (Schema), {str(schema)[:20]}"
        return
    if not as_json:  # a message of protobuf's: its fields come in either spelling
        schema = {re.sub(r"_([a-z])", lambda found: found[1].upper(), word): value for word, value in schema.items()}
    for word in schema:
        if word not in (_JSON_WORDS if as_json else _SCHEMA_WORDS):
            yield f"Unknown name \"{word[:40]}\" at '{where}': Cannot find field."
    types = _types(schema)
    if unknown := [name for name in types if name not in _TYPES]:
        yield f"Invalid value at '{where}.type' (Type), \"{unknown[0][:20]}\""
    if isinstance(schema.get("type"), list) and not as_json:
        yield f"Proto field is not repeating, cannot start list at '{where}.type'."
    if "anyOf" in schema:
        if vertex and len(schema) > 1:
            rule = "When using any_of, it must be the only field set."
            yield f"{where} schema specified other fields alongside any_of. {rule}"
    elif not types and "$ref" not in schema and not as_json:
        yield f"{where}.type: must be specified"
    yield from _wrong_values(schema, types, where, as_json)
    if "array" in types and not (schema.get("items") or (as_json and schema.get("prefixItems"))):
        yield f"{where}.items: missing field"
    nested += bool({"array", "object"} & {*types})
    if nested > NESTED_MAX:
        yield "A FunctionDeclaration in the request exceeds the maximum allowed nesting depth."
        return
    for path, inner in _inner(schema):
        yield from _wrong(inner, f"{where}.{path}", as_json, vertex, nested)


def _wrong_values(schema: Mapping[str, Any], types: list[str], where: str, as_json: bool) -> Iterator[str]:
    for word, kind in _OF_TYPE.items():
        if word in schema and types != [kind]:
            yield f"{where}.{word}: only allowed for {kind.upper()} type"
    for word in _TEXTS:
        if not isinstance(schema.get(word, ""), str):
            yield f"Invalid value at '{where}.{word}' (TYPE_STRING), {str(schema[word])[:20]}"
    for word in _COUNTS:
        value = schema.get(word, 0)
        if isinstance(value, bool) or not re.fullmatch(r"\d{1,18}", str(value)):
            yield f"Invalid value at '{where}.{word}' (TYPE_INT64), {str(value)[:20]}"
    for word in ("minimum", "maximum"):
        if isinstance(value := schema.get(word, 0), bool) or not isinstance(value, int | float):
            yield f"Invalid value at '{where}.{word}' (TYPE_DOUBLE), {str(value)[:20]}"
    if not isinstance(schema.get("nullable", False), bool):
        yield f"Invalid value at '{where}.nullable' (TYPE_BOOL), {str(schema['nullable'])[:20]}"
    yield from _wrong_enum(schema, types, where, as_json)
    if "format" in schema:
        known = [_FORMATS[name] for name in types if name in _FORMATS]
        if not known:
            yield f"{where}.format: format is only supported for NUMBER, INTEGER and STRING type"
        elif not any(str(schema["format"]) in names for names in known):
            names = " and ".join(f"'{name}'" for name in sorted(known[0], reverse=True))
            yield f"{where}.format: only {names} are supported for {types[0].upper()} type"
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        yield f"Invalid value at '{where}.properties' (Schema), {str(properties)[:20]}"
    elif "properties" in schema and not properties:
        yield f"{where}.properties: should be non-empty for OBJECT type"
    required = schema.get("required", [])
    if not isinstance(required, list):
        yield f"Invalid value at '{where}.required' (TYPE_STRING), {str(required)[:20]}"
    else:
        for i, name in enumerate(required):
            if not isinstance(properties, Mapping) or not isinstance(name, str) or name not in properties:
                yield f"{where}.required[{i}]: property is not defined"


def _wrong_enum(schema: Mapping[str, Any], types: list[str], where: str, as_json: bool) -> Iterator[str]:
    if "enum" not in schema:
        return
    values = schema["enum"]
    if not isinstance(values, list) or not values:
        yield f"{where}.enum: should be non-empty"
        return
    numbers = as_json and {*types} <= {"number", "integer"} and types  # documented for JSON Schema alone
    if "string" not in types and not numbers:
        yield f"{where}.enum: only allowed for STRING type"
    for i, value in enumerate(values):
        if value == "":
            yield f"{where}.enum[{i}]: cannot be empty"
        elif isinstance(value, bool) or not isinstance(value, int | float if numbers else str):
            yield f"Invalid value at '{where}.enum[{i}]' (TYPE_STRING), {str(value)[:20]}"


def _inner(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas directly within one, each with its place."""
    for word in ("properties", "$defs"):
        if isinstance(inner := schema.get(word), Mapping):
            for name, value in inner.items():
                yield f"{word}[{name}]", value
    for word in ("anyOf", "oneOf", "prefixItems"):
        if isinstance(inner := schema.get(word), list):
            for i, value in enumerate(inner):
                yield f"{'any_of' if word != 'prefixItems' else 'prefix_items'}[{i}]", value
    if "items" in schema:
        yield "items", schema["items"]
    if isinstance(inner := schema.get("additionalProperties"), Mapping):
        yield "additional_properties", inner
