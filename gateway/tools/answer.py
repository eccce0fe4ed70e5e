"""What a tool returned, as the model is told of it: plain JSON values, never more than a limit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import msgspec

from offhook.gateway.observe.redact import Redactor

__all__ = ["ANSWER_LIMIT", "answer", "clipped", "clipped_text", "refusal"]

ANSWER_LIMIT = 16_000  # bytes of JSON: some 4,000 tokens, which the model reads before it speaks
MAX_DEPTH = 20


def answer(value: Any, redactor: Redactor, limit: int = ANSWER_LIMIT) -> dict[str, Any]:
    """The response to a tool call that went well. Cut at `limit` bytes of JSON, with a note that says so."""
    plain, whole = _without_secrets(value, redactor, limit)
    response: dict[str, Any] = {"status": "ok", "result": plain}
    if not whole:
        response["note"] = "This answer was too long: only its beginning is here."
    elif plain is None:
        response["message"] = "Done."
    elif plain in ([], {}, ""):  # an empty result alone makes models ask again and again
        response["message"] = "Nothing was found."
    return response


def refusal(message: str, *, retryable: bool = False) -> dict[str, Any]:
    """The response to a tool call that did not go well: a plain sentence."""
    return {"status": "error", "message": message, "retryable": retryable}


def clipped(value: Any, limit: int) -> tuple[Any, bool]:
    """The value as plain JSON of about `limit` bytes at most, and whether that is all of it.

    Looks at no more of it than fits: cutting ten megabytes takes no longer than reading sixteen kilobytes.
    """
    budget = _Budget(limit)
    plain = budget.take(value, 0)
    return plain, budget.whole


def clipped_text(text: str, redactor: Redactor, limit: int) -> str:
    """The beginning of a text that may be very long, without the secrets."""
    return redactor.text(text[: 2 * limit])[:limit]


def _without_secrets(value: Any, redactor: Redactor, limit: int) -> tuple[Any, bool]:
    # Cut twice: half a secret at the first cut would not be known as one.
    plain, whole = clipped(value, 2 * limit)
    plain, all_of_it = clipped(redactor.value(plain), limit)
    return plain, whole and all_of_it


class _Budget:
    def __init__(self, left: int) -> None:
        self._left, self.whole = left, True

    def take(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, bool):
            self._left -= 4
            return value
        if isinstance(value, Enum):
            return self.take(value.value, depth)
        if isinstance(value, int):
            if not -(2**63) <= value < 2**63:  # more than JSON readers take for a number; it can be as long as any text
                return self._text(str(value) if value.bit_length() < 4_000 else "a very large number")
            self._left -= len(str(value))
            return value
        if isinstance(value, float):
            self._left -= 8
            return value if math.isfinite(value) else str(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._text(bytes(value[: max(0, self._left) + 1]).decode("utf-8", "replace"))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        elif isinstance(value, msgspec.Struct):
            value = msgspec.structs.asdict(value)
        if isinstance(value, (Mapping, list, tuple, set, frozenset)) and depth >= MAX_DEPTH:
            self.whole = False
            return None
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._items(value, depth)
        return self._text(str(value))

    def _text(self, text: str) -> str:
        room = max(0, self._left - 2)
        if len(text) > room:
            text, self.whole = text[:room], False
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no text
        size = len(text.encode("utf-8", "replace"))
        if size > room:
            text, self.whole = text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore"), False
            size = room
        self._left -= size + 2
        return text

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        plain = {}
        self._left -= 2
        for key, item in value.items():
            if self._left <= 0:
                self.whole = False
                break
            name = self._text(key if isinstance(key, str) else str(key))
            self._left -= 2
            plain[name] = self.take(item, depth + 1)
        return plain

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
