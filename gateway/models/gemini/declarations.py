"""A tool's JSON schema, as the Gemini API takes it in a function declaration; pure.

The API takes a part of JSON Schema and refuses the whole session for one keyword or form beyond it. Where Google's
documentation and reports differ, or the Developer API and Vertex AI, the form is used that all of them take. What is
removed here is still validated when the model calls the tool, and refused then in words that it can act upon.

Sources: Google's reference of FunctionDeclaration and Schema; the reports of 400 and 1007 errors that are listed in
`rehearsal/model/declarations.py`, which refuses what they name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["declared_parameters"]

NESTED_MAX = 4  # objects and lists within each other: four are reported taken and six refused
CUT_CHARACTERS = 1_000  # of a schema that is described in JSON, as it nests too deeply
_ANY_TYPE = ("description", "nullable", "default", "example")
_OF_TYPE = {
    "string": ("enum", "format", "minLength", "maxLength", "pattern"),
    "integer": ("format", "minimum", "maximum"),
    "number": ("format", "minimum", "maximum"),
    "boolean": (),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "null": (),
}
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_FORMATS = {"string": ("date-time",), "integer": ("int32", "int64"), "number": ("float", "double")}
_EXAMPLES = {"date": "2026-03-31", "time": "14:30:00", "duration": "PT1H30M"}


def declared_parameters(schema: Mapping[str, Any], *, as_json: bool = True) -> dict[str, Any]:
    """A tool's schema, its references resolved, in the keywords and forms that the API takes; of type object.

    `as_json`: for `parametersJsonSchema`, else for `parameters`, which takes fewer.
    """
    declared = _declared({**schema, "type": "object"}, 0)
    return declared if as_json else _openapi(declared)


def _openapi(declared: Mapping[str, Any]) -> dict[str, Any]:
    """A declared schema in the forms that the API's own Schema has: each with one type, and lists of one kind."""
    plain = {word: value for word, value in declared.items() if word not in ("additionalProperties", "prefixItems")}
    if "anyOf" in plain:
        return {**plain, "anyOf": [_openapi(option) for option in plain["anyOf"]]}
    if "type" not in plain:
        return _described({**plain, "type": "string"}, "Any value; a list or an object as JSON.")
    if "properties" in plain:
        plain["properties"] = {name: _openapi(value) for name, value in plain["properties"].items()}
    if "prefixItems" in declared:
        items = [*declared["prefixItems"], *([plain["items"]] if "items" in plain else [])]
        options = [option for item in items for option in item.get("anyOf", [item])]
        plain["items"] = {"anyOf": options} if len(options) > 1 else options[0]
    if "items" in plain:
        plain["items"] = _openapi(plain["items"])
    return plain


def _declared(schema: Any, nested: int) -> dict[str, Any]:
    """`nested`: the objects and lists around it."""
    if not isinstance(schema, Mapping):  # true: anything
        return {}
    merged = _merged(schema)
    notes: list[str] = []
    kinds = _kinds(merged)
    if not isinstance(merged.get("nullable", False), bool):  # no keyword of JSON Schema: anything may be there
        del merged["nullable"]
    if "null" in kinds and len(kinds) > 1:
        kinds.remove("null")
        merged["nullable"] = True
    if isinstance(merged.get("anyOf"), list):
        if not kinds:
            return _union(merged, nested)
        notes.append(f"It must also fit one of: {_shown(merged['anyOf'])}.")
    if len(kinds) > 1:
        about = {word: merged.pop(word) for word in _ANY_TYPE if word in merged}
        return _union({**about, "anyOf": [{**merged, "type": kind} for kind in kinds]}, nested)
    kind = kinds[0] if kinds else ""
    _rewrite(merged, kind, notes)
    kind = merged.get("type", "")
    plain = {word: merged[word] for word in ("type", *_ANY_TYPE, *_OF_TYPE.get(kind, ())) if word in merged}
    if kind in ("array", "object"):
        if nested >= NESTED_MAX:
            inner = {
                word: merged[word] for word in ("items", "prefixItems", "properties", "required") if word in merged
            }
            plain = {word: plain[word] for word in ("type", *_ANY_TYPE) if word in plain}
            if kind == "array":
                plain["items"] = {"type": "string"}
            notes.append(f"Nested further, as in this JSON schema: {_shown(inner)}.")
        else:
            _descend(plain, nested + 1)
    if notes:
        plain["description"] = " ".join([*filter(None, [plain.get("description")]), *notes])
    return plain


def _descend(plain: dict[str, Any], nested: int) -> None:
    """The schemas within an object or a list, in place."""
    if plain["type"] == "array":
        if isinstance(plain.get("prefixItems"), list):
            plain["prefixItems"] = [_declared(item, nested) for item in plain["prefixItems"] if item is not False]
        for word in ("items", "prefixItems"):
            if not plain.get(word) or not isinstance(plain[word], Mapping | list):
                plain.pop(word, None)
        if isinstance(plain.get("items"), Mapping):
            plain["items"] = _declared(plain["items"], nested)
        if not plain.get("items") and "prefixItems" not in plain:
            plain["items"] = {"type": "string"}  # a list without them is refused
        return
    given = plain.get("properties")
    properties = {
        name: _declared(value, nested)
        for name, value in (given.items() if isinstance(given, Mapping) else ())
        if value is not False
    }
    required = [name for name in plain.get("required") or () if name in properties]
    for word, value in (("properties", properties), ("required", list(dict.fromkeys(required)))):
        plain.pop(word, None)
        if value:  # an empty one is refused, and a name without a property
            plain[word] = value
    more = plain.get("additionalProperties")
    if isinstance(more, Mapping):
        plain["additionalProperties"] = _declared(more, nested)


def _union(schema: Mapping[str, Any], nested: int) -> dict[str, Any]:
    """`anyOf`, which Vertex AI takes without other keywords alone: its description goes to the first option."""
    options = [option for option in schema["anyOf"] if option is not False]
    null = any(isinstance(option, Mapping) and option.get("type") == "null" for option in options)
    declared = [
        _declared(option, nested)
        for option in options
        if not (isinstance(option, Mapping) and option.get("type") == "null")
    ]
    flat = [inner for option in declared for inner in option.get("anyOf", [option])]
    about = {word: schema[word] for word in _ANY_TYPE if word in schema}
    if not isinstance(about.get("description", ""), str):
        del about["description"]
    if not flat:
        return {"type": "null", **about} if null else about
    if {} in flat:  # one of them is anything
        return _described(about, "")
    if null or about.get("nullable") is True:
        flat[0] = {**flat[0], "nullable": True}
    if len(flat) == 1:
        return _described({**flat[0], **{w: about[w] for w in about if w != "description"}}, about.get("description"))
    flat[0] = _described(flat[0], about.get("description"))
    return {"anyOf": flat}


def _described(schema: dict[str, Any], before: Any) -> dict[str, Any]:
    """The schema with this text before its description."""
    texts = [text for text in (before, schema.get("description")) if isinstance(text, str) and text]
    plain = {word: value for word, value in schema.items() if word != "description"}
    return {**plain, "description": " ".join(texts)} if texts else plain


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    """The schema's types. Without any: what its other keywords imply, if they do."""
    kind = schema.get("type")
    if isinstance(kind, str):
        return [kind]
    if isinstance(kind, list):
        return [name for name in dict.fromkeys(kind) if isinstance(name, str)]
    if isinstance(schema.get("properties"), Mapping) and schema["properties"]:
        return ["object"]
    return ["array"] if {"items", "prefixItems"} & schema.keys() else []


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


def _rewrite(schema: dict[str, Any], kind: str, notes: list[str]) -> None:
    """What can be written in another form is; of what cannot, the description gets a note. Sets the type, if any."""
    if "const" in schema and "enum" not in schema:
        schema["enum"] = [schema["const"]]
    if isinstance(values := schema.get("enum"), list):
        kept = [value for value in values if value not in ("", None)]  # an empty text is refused
        if kept and kind in ("", "string") and all(isinstance(value, str) for value in kept):
            schema["enum"], kind = kept, "string"
            if None in values:
                schema["nullable"] = True
        else:  # numbers are documented for a JSON schema, and reported refused
            del schema["enum"]
            kind = kind or ("number" if kept and all(map(_is_number, kept)) else "")
            notes.append(f"One of: {', '.join(map(_shown, values))}.")
    if isinstance(schema.get("items"), list):  # draft 7
        schema["prefixItems"] = schema.pop("items")
    for word, bound, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        limit = schema.get(word)
        if isinstance(limit, int) and not isinstance(limit, bool) and kind == "integer":
            schema.setdefault(bound, limit + step)
        elif _is_number(limit):
            notes.append(f"{'More' if step > 0 else 'Less'} than {limit:g}.")
    if _is_number(schema.get("multipleOf")):
        notes.append(f"A multiple of {schema['multipleOf']:g}.")
    if (form := schema.get("format")) is not None and form not in _FORMATS.get(kind, ()):
        del schema["format"]
        notes.append(f"Format: {form}" + (f", as in {_EXAMPLES[form]}." if form in _EXAMPLES else "."))
    for word in _COUNTS:  # 2.0 is a whole number in JSON
        if isinstance(value := schema.get(word), float):
            schema[word] = int(value)
    if not isinstance(schema.get("description", ""), str):
        del schema["description"]
    if kind:
        schema["type"] = kind


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """A part of a schema in one line of JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= CUT_CHARACTERS else f"{text[:CUT_CHARACTERS]}..."
