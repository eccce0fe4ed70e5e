"""JSON schemas of a tool's arguments: references resolved, and what a model sends converted and validated.

The validator is `jsonschema-rs` (draft 2020-12), compiled once for each tool: about 1 us a call, and its regular
expressions stop at a limit of backtracking. References follow RFC 6901 (JSON pointer) in a URI fragment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from typing import Any
from urllib.parse import unquote

import jsonschema_rs

from offhook.gateway.observe.redact import Redactor

__all__ = ["Arguments", "BadArguments", "inlined"]

MAX_DEPTH = 20
MAX_NODES = 5_000  # of a schema without references: a few nested ones can multiply without end
SHOWN_CHARACTERS = 60  # of a wrong value, back to the model
_NULL = {"type": "null"}
_DROPPED = ("$ref", "$defs", "definitions", "$schema", "$id", "$anchor", "$comment")
_LITERAL = ("enum", "const", "default", "examples", "example", "required")  # hold values, not schemas
_NAMED = ("properties", "patternProperties", "dependentSchemas")  # hold schemas under names of the user's own


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
        plain = redactor.value(value)  # masked before it is cut: half a secret would not be recognised
        shown = repr(plain[:SHOWN_CHARACTERS]) if isinstance(plain, str) else repr(plain)[:SHOWN_CHARACTERS]
        return f"{redactor.text(text)}{shown}{redactor.text(after)}"


# --- references


def inlined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without references, definitions, titles and null defaults.

    A schema that contains itself is cut where it repeats, with a note in the description. Raises `ValueError` for a
    reference that leads nowhere or to another document, and for a schema that is too large.
    """
    plain = _Inliner(schema).plain(schema, ())
    if not isinstance(plain, dict):
        raise ValueError("the schema is not an object")
    return plain


class _Inliner:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._nodes = 0

    def plain(self, schema: Any, inside: tuple[str, ...]) -> Any:
        if isinstance(schema, list):
            return [self.plain(item, inside) for item in schema]
        if not isinstance(schema, Mapping):
            return schema
        self._nodes += 1
        if self._nodes > MAX_NODES or len(inside) > 100:
            raise ValueError(f"the schema is too large: more than {MAX_NODES} parts")
        plain: dict[str, Any] = {}
        reference = schema.get("$ref", schema.get("$dynamicRef"))
        if isinstance(reference, str):
            target = _target(self._root, reference)
            plain = _cut(target, reference) if reference in inside else self.plain(target, (*inside, reference))
            if not isinstance(plain, dict):  # true or false
                return plain
        for word, value in schema.items():
            if word in _DROPPED or word == "$dynamicRef" or (word == "title" and isinstance(value, str)):
                continue
            if word == "default" and value is None:
                continue
            if word in _NAMED and isinstance(value, Mapping):
                plain[word] = {name: self.plain(item, inside) for name, item in value.items()}
            elif word in _LITERAL:
                plain[word] = value
            else:
                plain[word] = self.plain(value, inside)
        return _simplified(plain, schema)


def _target(root: Mapping[str, Any], reference: str) -> Any:
    """What a reference within the document leads to. Raises `ValueError`."""
    document, _, fragment = reference.partition("#")
    if document and document != root.get("$id", "").partition("#")[0]:
        raise ValueError(f"{reference} refers to another document")
    pointer = unquote(fragment)
    if pointer and not pointer.startswith("/"):
        found = _anchored(root, pointer)
        if found is None:
            raise ValueError(f"{reference} is not defined")
        return found
    target: Any = root
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping) and key in target:
            target = target[key]
        elif isinstance(target, list) and re.fullmatch(r"0|[1-9]\d{0,5}", key) and int(key) < len(target):
            target = target[int(key)]
        else:
            raise ValueError(f"{reference} is not defined")
    return target


def _anchored(schema: Any, name: str, depth: int = 0) -> Any:
    if depth > 100:
        return None
    if isinstance(schema, Mapping):
        if name in (schema.get("$anchor"), schema.get("$dynamicAnchor"), schema.get("$id", "")[1:]):
            return schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for inner in schema:
            if (found := _anchored(inner, name, depth + 1)) is not None:
                return found
    return None


def _cut(target: Any, reference: str) -> dict[str, Any]:
    """What stands for a schema inside itself."""
    name = unquote(reference).rpartition("/")[2].lstrip("#") or "the whole"
    kind = target.get("type") if isinstance(target, Mapping) else None
    note = f"The same as {name} above, nested; not described further."
    return {**({"type": kind} if kind else {}), "description": note}


def _simplified(plain: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Shorter ways to write the same: an optional value that may be null, an enumeration of texts."""
    options = plain.get("anyOf")
    if isinstance(options, list) and _NULL in options and len(options) == 2:
        (other,) = [option for option in options if option != _NULL] or [_NULL]
        if isinstance(other, dict) and ("default" in schema or isinstance(other.get("type"), str)):
            del plain["anyOf"]
            plain = {**other, **plain}
            if "default" not in schema:  # must be given, and may be null; else not giving it says the same
                plain["type"] = [other["type"], "null"]
    values = plain.get("enum")
    if values and "type" not in plain and all(isinstance(value, str) for value in values):
        plain["type"] = "string"
    return plain


# --- arguments


class Arguments:
    """The arguments of one tool, by its schema. Raises `ValueError` for a schema that is not valid."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        whole = {"type": "object", **schema}
        if whole.get("properties") and not {"additionalProperties", "unevaluatedProperties"} & whole.keys():
            whole["unevaluatedProperties"] = False  # a parameter the model made up
        self._schema = whole
        try:
            self._validator = _validator(whole)
        except ValueError as error:
            raise ValueError(str(getattr(error, "message", error))) from None
        self._options: dict[int, Any] = {}  # of anyOf and oneOf: validators by the identity of their schema

    def checked(self, given: Any) -> dict[str, Any]:
        """The arguments, converted where nothing is lost ("3" for an integer). Raises `BadArguments`."""
        if given is None:
            given = {}
        if not isinstance(given, Mapping):
            raise BadArguments("The arguments must be an object with a value per parameter.")
        value = self._converted(self._schema, dict(given), "", 0)
        try:
            found = next(iter(self._validator.iter_errors(value)), None)
        except ValueError as error:  # a lone surrogate, which is no text
            raise BadArguments(f"The arguments cannot be read: {type(error).__name__}.") from None
        if found is not None:
            raise _refusal(found, self._schema)
        assert isinstance(value, dict)
        return value

    def _converted(self, schema: Any, value: Any, where: str, depth: int) -> Any:
        """The value with all that can be converted without loss; the validator judges the result."""
        if depth > MAX_DEPTH:
            raise BadArguments(f"{where or 'The arguments'} nests too deeply.")
        if isinstance(value, tuple):
            value = list(value)
        if not isinstance(schema, Mapping):
            return value
        for word in ("anyOf", "oneOf"):
            if isinstance(schema.get(word), list):
                value = self._by_option(schema[word], value, where, depth)
        for part in schema.get("allOf") or ():
            value = self._converted(part, value, where, depth + 1)
        types = schema.get("type")
        if types is not None:
            value = _of_type([types] if isinstance(types, str) else types, value)
        if isinstance(value, str):
            return _spelt(schema.get("format"), value, where)
        if isinstance(value, list):
            first = schema.get("prefixItems") or []
            rest = schema.get("items", True)
            return [
                self._converted(first[i] if i < len(first) else rest, item, f"{where}[{i}]", depth + 1)
                for i, item in enumerate(value)
            ]
        if isinstance(value, dict):
            return self._object(schema, value, where, depth)
        return value

    def _object(self, schema: Mapping[str, Any], value: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
        properties: Mapping[str, Any] = schema.get("properties") or {}
        required = schema.get("required") or ()
        further = schema.get("additionalProperties", True)
        result: dict[str, Any] = {}
        for name, item in value.items():
            of_it = properties.get(name, further)
            if item is None and name in properties and name not in required and not _takes_null(of_it):
                continue  # as good as not given
            result[name] = self._converted(of_it, item, f"{where}.{name}" if where else str(name), depth + 1)
        return result

    def _by_option(self, options: Sequence[Any], value: Any, where: str, depth: int) -> Any:
        """The value as the first option takes it, one of its own type before one to convert to."""
        exact = [option for option in options if isinstance(option, Mapping) and _is(option.get("type"), value)]
        for option in [*exact, *(option for option in options if option not in exact)]:
            try:
                converted = self._converted(option, value, where, depth + 1)
                validator = self._options.get(id(option))
                if validator is None:
                    validator = self._options[id(option)] = _validator(option)
                if validator.is_valid(converted):
                    return converted
            except ValueError:  # of the option, or of the value in it
                continue
        return value


def _validator(schema: Any) -> Any:
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=False, offline=True)


_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_LIMITS = {
    "minimum": ("at least", ""),
    "maximum": ("at most", ""),
    "exclusiveMinimum": ("more than", ""),
    "exclusiveMaximum": ("less than", ""),
    "minLength": ("at least", " characters long"),
    "maxLength": ("at most", " characters long"),
    "minItems": ("at least", " items long"),
    "maxItems": ("at most", " items long"),
    "multipleOf": ("a multiple of", ""),
}


def _refusal(error: Any, schema: Mapping[str, Any]) -> BadArguments:
    """A validator's error in words for the model."""
    word, limit = error.kind.name, error.kind.value
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path).lstrip(".")
    subject = where or "The value"
    if word == "type":
        kinds = [limit] if isinstance(limit, str) else sorted(limit, key=lambda kind: kind == "null")
        wanted = " or ".join(_WORDS.get(kind, kind) for kind in kinds)
        return BadArguments(f"{subject} must be {wanted}, not ", error.instance, ".")
    if word in _LIMITS:
        compared, unit = _LIMITS[word]
        return BadArguments(f"{subject} must be {compared} {_number(limit)}{unit}.")
    if word == "required":
        return BadArguments(f"{where + '.' if where else ''}{limit} is missing.")
    if word in ("additionalProperties", "unevaluatedProperties"):
        known = ", ".join(_at(schema, error.schema_path[:-1]).get("properties") or ()) or "none"
        path = f"{where}.{limit[0]}" if where else limit[0]
        return BadArguments("There is no parameter ", path, f": the parameters are {known}.")
    if word == "enum":
        return BadArguments(f"{subject} must be one of {', '.join(map(str, limit))}, not ", error.instance, ".")
    if word == "const":
        return BadArguments(f"{subject} must be {limit}, not ", error.instance, ".")
    if word == "pattern":
        return BadArguments(f"{subject} does not look right: it must match {limit}.")
    if word in ("anyOf", "oneOf"):
        nested = [first for option in getattr(error.kind, "context", ()) for first in option[:1]]
        if nested:
            return _refusal(nested[-1], schema)
    if word == "falseSchema":
        return BadArguments(f"{subject} must not be given.")
    rule = json.dumps(limit, ensure_ascii=False, default=str)[:SHOWN_CHARACTERS]
    return BadArguments(f"{subject} does not fit: {word} {rule}.")


def _at(schema: Any, path: Sequence[str | int]) -> Mapping[str, Any]:
    for part in path:
        try:
            schema = schema[part]
        except (LookupError, TypeError):
            return {}
    return schema if isinstance(schema, Mapping) else {}


def _number(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _takes_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and (
        "null" in (schema.get("type") or ()) or _NULL in (schema.get("anyOf") or ())
    )


def _of_type(types: Sequence[str], value: Any) -> Any:
    if not any(_is(name, value) for name in types):
        for name in types:
            if (converted := _as(name, value)) is not None:
                return converted
    return value


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


def _as(name: str, value: Any) -> Any:
    """The value as this type when it says the same; else None."""
    match name, value:
        case "integer", float() if value.is_integer():
            return int(value)
        case "integer", str() if re.fullmatch(r"\s*[-+]?\d{1,18}\s*", value):
            return int(value)
        case "number", str():
            try:
                number = float(value)
            except ValueError:
                return None
            return number if abs(number) < float("inf") else None
        case "string", (int() | float()) if not isinstance(value, bool):
            return str(value)
        case "boolean", str() if value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
    return None


_TIME = re.compile(r"(\d{1,2}:\d\d)(:\d\d(?:\.\d+)?)?\s*(Z|[+-]\d\d:?\d\d)?", re.I)
_FORMATS: dict[
    Any, tuple[str, Any]
] = {  # ISO 8601, what models write for it made exact: seconds are optional, a space may stand for the T
    "date": ("a date such as 2026-03-31", date),
    "time": ("a time of day such as 14:30 or 14:30:00", time),
    "date-time": ("a date and time such as 2026-03-31T14:30:00", datetime),
}


def _spelt(name: Any, text: str, where: str) -> str:
    """A text of one of these formats as RFC 3339 spells it. Raises `BadArguments`."""
    if name not in _FORMATS:
        return text
    wanted, kind = _FORMATS[name]
    day, clock = "", text.strip()
    if name == "date-time":
        day, _, clock = clock.replace(" ", "T", 1).upper().partition("T")
    try:
        if name == "date":
            exact = date.fromisoformat(text).isoformat() == text
        else:
            found = _TIME.fullmatch(clock)
            exact = found is not None
            if found is not None:
                text = f"{found[1]:0>5}{found[2] or ':00'}{(found[3] or '').upper()}"
                text = f"{day}T{text}" if day else text
            exact = exact and (day != "" or name == "time") and kind.fromisoformat(text) is not None
    except ValueError:
        exact = False
    if not exact:
        raise BadArguments(f"{where} must be {wanted}, not ", text, ".")
    return text
