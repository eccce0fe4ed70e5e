"""A tool's JSON schema, as the Gemini API takes it in a function declaration; pure.

The API takes a part of JSON Schema and refuses the whole session for one keyword or form beyond it. What is removed
here is still validated when the model calls the tool, and refused then in words that it can act upon.

Sources: Google's reference of FunctionDeclaration and Schema; for what is refused, reports of 400 and 1007 errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["declared_parameters"]

MAX_DEPTH = 20
_KEPT = frozenset(
    (
        "type",
        "format",
        "description",
        "nullable",
        "enum",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "pattern",
        "minimum",
        "maximum",
        "minProperties",
        "maxProperties",
        "properties",
        "additionalProperties",
        "required",
        "anyOf",
        "default",
        "example",
    )
)
_FORMATS = frozenset(("date-time", "date", "time", "duration", "int32", "int64", "float", "double"))


def declared_parameters(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's schema, its references resolved, in the keywords and forms that the API takes."""
    return _declared(schema, 0)


def _declared(schema: Any, depth: int) -> dict[str, Any]:
    if not isinstance(schema, Mapping):  # true: anything
        return {}
    if depth > MAX_DEPTH:
        kind = schema.get("type")
        return {**({"type": kind} if kind else {}), "description": "Nested further; not described."}
    merged = _merged(schema)
    notes: list[str] = []
    _rewrite(merged, notes)
    plain = {word: value for word, value in merged.items() if word in _KEPT}
    properties = plain.get("properties")
    if isinstance(properties, Mapping):
        plain["properties"] = {
            name: _declared(value, depth + 1) for name, value in properties.items() if value is not False
        }
    if "required" in plain:  # a name without a property is refused
        plain["required"] = [name for name in plain["required"] if name in plain.get("properties", ())]
        if not plain["required"]:
            del plain["required"]
    for word in ("anyOf", "prefixItems"):
        if word in plain:
            plain[word] = [_declared(option, depth + 1) for option in plain[word] if option is not False]
            if not plain[word]:
                del plain[word]
    for word in ("items", "additionalProperties"):
        if isinstance(plain.get(word), Mapping):
            plain[word] = _declared(plain[word], depth + 1)
    if plain.get("items") is False or plain.get("items") is True:
        del plain["items"]
    if _may_be(plain, "array") and "items" not in plain and "prefixItems" not in plain:
        plain["items"] = {"type": "string"}  # a list without them is refused
    if notes:
        plain["description"] = " ".join([*filter(None, [plain.get("description")]), *notes])
    return plain


def _may_be(schema: Mapping[str, Any], kind: str) -> bool:
    types = schema.get("type")
    return types == kind or (isinstance(types, list) and kind in types)


def _merged(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with the parts of its `allOf` in one, and `oneOf` as `anyOf`."""
    merged = {word: value for word, value in schema.items() if word not in ("allOf", "oneOf")}
    if isinstance(schema.get("oneOf"), list):
        merged["anyOf"] = [*merged.get("anyOf", ()), *schema["oneOf"]]
    for part in schema.get("allOf") or ():
        if not isinstance(part, Mapping):
            continue
        for word, value in _merged(part).items():
            if word == "properties" and isinstance(value, Mapping):
                merged[word] = {**value, **merged.get(word, {})}
            elif word == "required":
                merged[word] = list(dict.fromkeys([*merged.get(word, ()), *value]))
            else:
                merged.setdefault(word, value)
    return merged


def _rewrite(schema: dict[str, Any], notes: list[str]) -> None:
    """What can be written in another form is; of what cannot, the description gets a note."""
    if "const" in schema and "enum" not in schema:
        schema["enum"] = [schema["const"]]
    if isinstance(values := schema.get("enum"), list):
        kept = [value for value in values if value not in ("", None)]  # an empty text is refused
        if kept and (_all(kept, str) or _all(kept, (int, float))):
            schema["enum"] = kept
            schema.setdefault("type", "string" if _all(kept, str) else "number")
        else:
            del schema["enum"]
            notes.append(f"One of: {', '.join(json.dumps(value, ensure_ascii=False) for value in values)}.")
    if isinstance(schema.get("items"), list):  # draft 7
        schema["prefixItems"] = schema.pop("items")
    for word, bound, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        limit = schema.get(word)
        if isinstance(limit, int) and not isinstance(limit, bool) and schema.get("type") == "integer":
            schema.setdefault(bound, limit + step)
        elif isinstance(limit, (int, float)) and not isinstance(limit, bool):
            notes.append(f"{'More' if step > 0 else 'Less'} than {limit:g}.")
    if isinstance(schema.get("multipleOf"), (int, float)):
        notes.append(f"A multiple of {schema['multipleOf']:g}.")
    if "format" in schema and schema["format"] not in _FORMATS:
        notes.append(f"Format: {schema.pop('format')}.")
    if not isinstance(schema.get("description", ""), str):
        del schema["description"]


def _all(values: list[Any], kinds: type | tuple[type, ...]) -> bool:
    return all(isinstance(value, kinds) and not isinstance(value, bool) for value in values)
