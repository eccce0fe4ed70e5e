"""What a tool returned, as the model is sent it: exact JSON types, never more than a limit.

Whatever user code returns passes through `clipped`. It walks no more of a value than fits, and either gives types
that every JSON writer takes or raises, so that no value can keep a tool call from being answered.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import (
    AsyncIterable,
    Awaitable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    Set,
    ValuesView,
)
from datetime import date, time
from enum import Enum
from io import IOBase
from os import PathLike, fspath
from typing import Any

import msgspec
import numpy as np

from offhook.gateway.observe.redact import Redactor
from offhook.gateway.tools import Secret

__all__ = ["ANSWER_LIMIT", "SHOWN_BYTES", "Exact", "answer", "clipped", "clipped_text", "refusal", "shown", "text_of"]

ANSWER_LIMIT = 16_000  # bytes of JSON: some 4,000 tokens, which the model reads before it speaks
SHOWN_BYTES = 2_000  # of a tool's arguments and result, in a record
MAX_DEPTH = 20
MAX_EXACT = 2**53  # functionResponses[].response is a google.protobuf.Struct: its numbers are doubles


@dataclasses.dataclass(frozen=True, slots=True)
class Exact:
    """A value that `clipped` has been through already, and whether that was all of it."""

    value: Any
    whole: bool


def answer(value: Any, redactor: Redactor, limit: int = ANSWER_LIMIT) -> dict[str, Any]:
    """The response to a tool call that went well. Cut at `limit` bytes of JSON, with a note that says so.

    Raises whatever the value's own code raises, and `TypeError` for a value that cannot be written.
    """
    plain, whole = _without_secrets(value, redactor, limit)
    response: dict[str, Any] = {"status": "ok", "result": plain}
    if not whole:
        response["note"] = "This answer was too long: only its beginning is here."
    elif plain is None:
        response["message"] = "Done."
    elif plain in ([], {}, ""):  # an empty result alone makes models call again and again
        response["message"] = "Nothing was found."
    return response


def refusal(message: str, *, retryable: bool = False) -> dict[str, Any]:
    """The response to a tool call that did not go well: a plain sentence."""
    return {"status": "error", "message": message, "retryable": retryable}


def clipped(value: Any, limit: int) -> tuple[Any, bool]:
    """The value as exact JSON types, about `limit` bytes of JSON at most, and whether that is all of it.

    Walks no more of it than fits: cutting ten megabytes takes no longer than reading sixteen kilobytes. A `Secret`
    stays as it is. Raises whatever the value's own code raises, and `TypeError` for a value that cannot be written.
    """
    before = True
    if isinstance(value, Exact):
        value, before = value.value, value.whole
    budget = _Budget(limit)
    plain = budget.take(value, 0)
    return plain, budget.whole and before


def clipped_text(text: str, redactor: Redactor, limit: int) -> str:
    """The beginning of a text that may be very long, without the secrets."""
    return redactor.text(text[: 2 * limit])[:limit]


def shown(value: Any, redactor: Redactor) -> Any:
    """A tool's arguments or result as a record may show it: of bounded length, without secrets."""
    # Cut twice: half a secret at the first cut would not be recognised as one.
    return clipped(redactor.value(clipped(value, 2 * SHOWN_BYTES)[0]), SHOWN_BYTES)[0]


def text_of(value: object) -> str:
    """`str(value)`, also of an object that cannot be shown."""
    try:
        return str.__str__(str(value))
    except Exception as error:
        return f"({type(value).__name__} that cannot be shown: {type(error).__name__})"


def _without_secrets(value: Any, redactor: Redactor, limit: int) -> tuple[Any, bool]:
    # Cut twice: half a secret at the first cut would not be recognised.
    plain, whole = clipped(value, 2 * limit)
    plain, all_of_it = clipped(redactor.value(plain), limit)
    return plain, whole and all_of_it


def _pairs_of(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """What is written as an object, one by one; None for anything else."""
    if isinstance(value, Mapping):
        return value.items()
    fields = _fields(value)
    if fields is not None:
        return fields.items()
    if callable(getattr(value, "keys", None)) and hasattr(value, "__getitem__"):  # a row of a database, or a table
        return ((key, value[key]) for key in value.keys())  # noqa: SIM118 - iterating a row gives its values
    return None


def _fields(value: Any) -> Mapping[str, Any] | None:
    """The named parts of a record of any make; None for what is not a record."""
    kind = type(value)
    names: Iterable[str] | None = None
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(value)]
    elif isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    elif isinstance(getattr(kind, "model_fields", None), dict):  # pydantic
        return _of_pydantic(value)
    elif isinstance(attrs := getattr(kind, "__attrs_attrs__", None), tuple):
        names = [attribute.name for attribute in attrs]
    elif isinstance(value, tuple) and isinstance(getattr(kind, "_fields", None), tuple):
        names = kind._fields
    elif isinstance(value, types.SimpleNamespace):
        names = list(vars(value))
    elif isinstance(getattr(value, "__dict__", None), dict) and not _shows_itself(kind):
        names = [name for name in vars(value) if not name.startswith("_")]  # else it would be an address in memory
    return None if not names else {name: getattr(value, name) for name in names}


def _shows_itself(kind: type) -> bool:
    return any("__str__" in vars(base) or "__repr__" in vars(base) for base in kind.__mro__[:-1])


def _of_pydantic(value: Any) -> Mapping[str, Any]:
    kind = type(value)
    decorators = getattr(kind, "__pydantic_decorators__", None)
    if getattr(decorators, "field_serializers", None) or getattr(decorators, "model_serializers", None):
        made = value.model_dump(mode="json")  # its own way to be written, which may leave out what is private
        return made if isinstance(made, dict) else {"value": made}
    names = [name for name, field in kind.model_fields.items() if not getattr(field, "exclude", None)]
    found = {name: getattr(value, name) for name in [*names, *getattr(kind, "model_computed_fields", ())]}
    return {**found, **(getattr(value, "__pydantic_extra__", None) or {})}


_ITEMS = (list, tuple, Set, Sequence, Iterator, KeysView, ValuesView, ItemsView)


def _items_of(value: Any) -> Iterable[Any] | None:
    """What is written as a list; None for anything else."""
    if isinstance(value, np.ndarray):
        return value if value.ndim else [value.item()]
    if isinstance(value, IOBase) or not isinstance(value, _ITEMS):
        return None
    return value


class _Budget:
    def __init__(self, left: int) -> None:
        self._left, self.whole = left, True

    def take(self, value: Any, depth: int) -> Any:
        """The value as exact JSON types; what does not fit any more is left out."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or value is True or value is False:
            self._left -= 4
            return value
        if isinstance(value, Enum):
            return self.take(value.value, depth)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            return self._integer(value)
        if isinstance(value, float):
            self._left -= 8
            number = float.__pos__(value)  # exact, whatever a subclass overrides
            return number if math.isfinite(number) else float.__repr__(number)
        if isinstance(value, Secret):
            self._left -= 16
            return value
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._text(bytes(value[: max(0, self._left) + 1]).decode("utf-8", "replace"))
        if isinstance(value, (date, time)):
            return self._text(value.isoformat())
        if isinstance(value, (Awaitable, AsyncIterable)):
            if callable(close := getattr(value, "close", None)):
                close()
            raise TypeError(f"a {type(value).__name__} inside the result was never awaited: await it in the tool")
        if isinstance(value, PathLike):
            return self.take(fspath(value), depth)
        return self._structure(value, depth)

    def _structure(self, value: Any, depth: int) -> Any:
        pairs = _pairs_of(value)
        items = None if pairs is not None else _items_of(value)
        if pairs is None and items is None:
            return self._text(str(value))
        if depth >= MAX_DEPTH:
            self.whole = False
            return None
        return self._items(items, depth) if items is not None else self._mapping(pairs or (), depth)

    def _integer(self, value: int) -> int | str:
        number = int.__pos__(value)
        if -MAX_EXACT <= number <= MAX_EXACT:
            self._left -= len(str(number))
            return number
        return self._text(str(number) if number.bit_length() < 4_000 else "a very large number")

    def _text(self, text: str) -> str:
        room = max(0, self._left - 2)
        whole = str.__len__(text) <= room
        text = str.__getitem__(text, slice(0, room))  # exact, whatever a subclass overrides
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no text
        size = len(text.encode("utf-8", "replace"))
        if size > room:
            text, whole = text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore"), False
            size = room
        self.whole = self.whole and whole
        self._left -= size + 2
        return text

    def _mapping(self, pairs: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        self._left -= 2
        for key, item in pairs:
            if self._left <= 0:
                self.whole = False
                break
            name = self._key(key)
            while name in plain:  # 1 and "1"
                name += "_"
            self._left -= 2
            plain[name] = self.take(item, depth + 1)
        return plain

    def _key(self, key: Any) -> str:
        if isinstance(key, Enum):
            key = key.value
        if isinstance(key, str):
            return self._text(key)
        if key is None or isinstance(key, bool):  # as JSON writes them
            return self._text({None: "null", True: "true", False: "false"}[key])
        return self._text(key.isoformat() if isinstance(key, (date, time)) else str(key))

    def _items(self, value: Iterable[Any], depth: int) -> list[Any]:
        plain = []
        self._left -= 2
        for item in value:
            if self._left <= 0:
                self.whole = False
                break
            self._left -= 1
            plain.append(self.take(item, depth + 1))
        return plain
