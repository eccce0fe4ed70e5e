"""JSON schemas of arguments: made plain for the model, and what a model sends checked and converted by them.

The checks are of what such schemas use: types, enum, const, required, properties, items, bounds, lengths, pattern,
dates, anyOf, oneOf, allOf. Other words of JSON Schema are left to whoever gets the arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from offhook.gateway.observe.redact import Redactor

__all__ = ["BadArguments", "checked", "inlined"]

MAX_DEPTH = 20
SHOWN_CHARACTERS = 60  # of a wrong value, back to the model
_NULL = {"type": "null"}


class BadArguments(ValueError):
    """Arguments that do not fit, in words the model can act upon: a text, or a text, the wrong value and a text."""

    def __str__(self) -> str:
        return self.told(Redactor())

    def told(self, redactor: Redactor) -> str:
        """The words, without secrets."""
        text, *more = self.args
        if not more:
            return redactor.text(text)
        value, after = more
        plain = redactor.value(value)  # and then cut: half a secret would not be known as one
        shown = repr(plain[:SHOWN_CHARACTERS]) if isinstance(plain, str) else repr(plain)[:SHOWN_CHARACTERS]
        return f"{redactor.text(text)}{shown}{redactor.text(after)}"


def inlined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without `$ref`, `$defs`, titles and null defaults. Raises `ValueError` for one that holds itself."""
    definitions = {**schema.get("$defs", {}), **schema.get("definitions", {})}
    plain = _inline(schema, definitions, ())
    assert isinstance(plain, dict)
    return plain


def _inline(schema: Any, definitions: Mapping[str, Any], inside: tuple[str, ...]) -> Any:
    if isinstance(schema, list):
        return [_inline(item, definitions, inside) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    plain: dict[str, Any] = {}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.rpartition("/")[2]
        if name in inside or name not in definitions:
            raise ValueError(f"{name} {'holds itself' if name in inside else 'is not defined'}")
        plain = _inline(definitions[name], definitions, (*inside, name))
    for word, value in schema.items():
        if word in ("$ref", "$defs", "definitions", "$schema") or (word == "title" and isinstance(value, str)):
            continue
        if word == "default" and value is None:
            continue
        if word in ("properties", "patternProperties") and isinstance(value, Mapping):
            plain[word] = {name: _inline(item, definitions, inside) for name, item in value.items()}
        elif word in ("enum", "const", "default", "examples", "required"):
            plain[word] = value
        else:
            plain[word] = _inline(value, definitions, inside)
    options = plain.get("anyOf")
    if isinstance(options, list) and _NULL in options and len(options) == 2:
        (other,) = [option for option in options if option != _NULL] or [_NULL]
        if "default" in schema or isinstance(other.get("type"), str):
            del plain["anyOf"]
            plain = {**other, **plain}
            if "default" not in schema:  # must be given, and may be null; else not giving it says the same
                plain["type"] = [other["type"], "null"]
    values = plain.get("enum")
    if values and "type" not in plain and all(isinstance(value, str) for value in values):
        plain["type"] = "string"
    return plain


def checked(schema: Mapping[str, Any], arguments: Any) -> dict[str, Any]:
    """The arguments, converted where nothing is lost ("3" for an integer). Raises `BadArguments`."""
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise BadArguments("The arguments must be an object with a value per parameter.")
    whole = {"type": "object", **schema}
    if whole.get("properties") and "additionalProperties" not in whole:
        whole["additionalProperties"] = False  # a parameter the model made up
    result = _checked(whole, dict(arguments), "", 0)
    assert isinstance(result, dict)
    return result


def _checked(schema: Any, value: Any, where: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise BadArguments(f"{where or 'The arguments'} nests too deeply.")
    if schema is False:
        raise BadArguments(f"{where} must not be given.")
    if not isinstance(schema, Mapping):
        return value
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            value = _one_of(schema[word], value, where, depth)
    for part in schema.get("allOf") or ():
        value = _checked(part, value, where, depth + 1)
    types = schema.get("type")
    if types is not None:
        value = _typed([types] if isinstance(types, str) else list(types), value, where)
    if "enum" in schema and value not in schema["enum"]:
        choices = ", ".join(str(choice) for choice in schema["enum"])
        raise BadArguments(f"{where} must be one of {choices}, not ", value, ".")
    if "const" in schema and value != schema["const"]:
        raise BadArguments(f"{where} must be {schema['const']}, not ", value, ".")
    if isinstance(value, str):
        _bounds(schema, len(value), "minLength", "maxLength", where, " characters long")
        pattern = schema.get("pattern")
        if isinstance(pattern, str) and not re.search(pattern, value):
            raise BadArguments(f"{where} does not look right: it must match {pattern}.")
        if schema.get("format") == "date" and not _is_date(value):
            raise BadArguments(f"{where} must be a date such as 2026-03-31, not ", value, ".")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _bounds(schema, value, "minimum", "maximum", where, "")
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            raise BadArguments(f"{where} must be more than {schema['exclusiveMinimum']}.")
        if "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"]:
            raise BadArguments(f"{where} must be less than {schema['exclusiveMaximum']}.")
    elif isinstance(value, list):
        _bounds(schema, len(value), "minItems", "maxItems", where, " items long")
        first = schema.get("prefixItems") or []
        rest = schema.get("items", True)
        value = [
            _checked(first[i] if i < len(first) else rest, item, f"{where}[{i}]", depth + 1)
            for i, item in enumerate(value)
        ]
    elif isinstance(value, dict):
        value = _object(schema, value, where, depth)
    return value


def _object(schema: Mapping[str, Any], value: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
    properties: Mapping[str, Any] = schema.get("properties") or {}
    required = schema.get("required") or ()
    further = schema.get("additionalProperties", True)
    result: dict[str, Any] = {}
    for name, item in value.items():
        path = f"{where}.{name}" if where else str(name)
        if name in properties:
            if item is None and name not in required and not _takes_null(properties[name]):
                continue  # as good as not given
            result[name] = _checked(properties[name], item, path, depth + 1)
        elif further is False:
            known = ", ".join(properties) or "none"
            raise BadArguments("There is no parameter ", path, f": the parameters are {known}.")
        else:
            result[name] = _checked(further, item, path, depth + 1)
    for name in required:
        if name not in result:
            raise BadArguments(f"{where + '.' if where else ''}{name} is missing.")
    return result


def _takes_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and (
        "null" in (schema.get("type") or ()) or _NULL in (schema.get("anyOf") or ())
    )


def _one_of(options: list[Any], value: Any, where: str, depth: int) -> Any:
    fault = BadArguments(f"{where} does not fit.")
    exact = [o for o in options if isinstance(o, Mapping) and _is(o.get("type"), value)]
    for option in [*exact, *(o for o in options if o not in exact)]:  # before one to convert to
        try:
            return _checked(option, value, where, depth + 1)
        except BadArguments as error:
            fault = error
    raise fault


_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def _typed(types: list[str], value: Any, where: str) -> Any:
    if any(_is(name, value) for name in types):
        return list(value) if isinstance(value, tuple) else value
    for name in types:
        converted = _converted(name, value)
        if converted is not None:
            return converted
    wanted = " or ".join(_WORDS.get(name, name) for name in types)
    raise BadArguments(f"{where or 'The value'} must be {wanted}, not ", value, ".")


def _is(name: Any, value: Any) -> bool:
    match name:
        case "string":
            return isinstance(value, str)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "array":
            return isinstance(value, (list, tuple))
        case "object":
            return isinstance(value, dict)
        case "null":
            return value is None
        case _:
            return False


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _converted(name: str, value: Any) -> Any:
    """The value as this type when it says the same; else None."""
    match name, value:
        case "integer", float() if value.is_integer():
            return int(value)
        case (("integer" | "number"), str()):
            try:
                number = float(value)
                if name == "integer":
                    return int(value) if re.fullmatch(r"\s*[-+]?\d{1,18}\s*", value) else None
                return number if abs(number) < float("inf") else None
            except ValueError:
                return None
        case "string", (int() | float()) if not isinstance(value, bool):
            return str(value)
        case "boolean", str() if value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
    return None


def _bounds(schema: Mapping[str, Any], size: float, least: str, most: str, where: str, unit: str) -> None:
    if least in schema and size < schema[least]:
        raise BadArguments(f"{where} must be at least {schema[least]}{unit}.")
    if most in schema and size > schema[most]:
        raise BadArguments(f"{where} must be at most {schema[most]}{unit}.")
