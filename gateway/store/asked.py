"""What people ask for, read: times and filters, the same on the command line and over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from offhook.gateway.errors import OperatorError
from offhook.gateway.numbers import DIALABLE, mistake_in
from offhook.gateway.store.columns import hash_number
from offhook.gateway.store.history import PAGE_MAX, CallQuery

__all__ = ["query_of", "time_ms"]

DAY_MS = 86_400_000
_LONGEST = 200  # characters of a filter
_FIRST, _LAST = -DAY_MS, 2_209_075_200_000 + DAY_MS  # 1970 to 2039, in any zone
_TEXTS = {"agent": "agent", "end_reason": "end_reason", "tool": "tool", "words": "words"}
_SPEEDS = {"turn_gap_over_ms": "turn_gap_over_ms", "barge_in_over_ms": "barge_in_over_ms"}


def time_ms(text: str, name: str) -> int:
    """ISO 8601, in UTC unless it has an offset, as milliseconds since 1970. Raises `OperatorError`."""
    try:
        at = datetime.fromisoformat(text.upper().replace(":60", ":59", 1))  # a leap second
        at_ms = int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise OperatorError(f"{name} must be a time such as 2026-11-24T15:00:00Z") from None
    if not _FIRST <= at_ms <= _LAST:
        raise OperatorError(f"{name} must be between 1970 and 2039")
    return at_ms


def query_of(given: Mapping[str, str], number_key: bytes) -> CallQuery:
    """Filters by name, as texts; empty ones are unset. Raises `OperatorError`."""
    found: dict[str, object] = {}
    for name, field in _TEXTS.items():
        if text := given.get(name, ""):
            if len(text) > _LONGEST or "\0" in text:
                raise OperatorError(f"{name} must be at most {_LONGEST} characters")
            found[field] = text
    for name in ("since", "until"):
        if text := given.get(name, ""):
            found[f"{name}_ms"] = time_ms(text, name)
    if number := given.get("number", ""):
        if what := mistake_in(number, DIALABLE):
            raise OperatorError(f"number {what}")
        found["number_hash"] = hash_number(number, number_key)
    for name, field in _SPEEDS.items():
        if text := given.get(name, ""):
            found[field] = float(_whole(text, name, 0, 3_600_000))
    if text := given.get("cursor", ""):
        found["before"] = _whole(text, "cursor", 0, (1 << 63) - 1)
    if text := given.get("limit", ""):
        found["limit"] = _whole(text, "limit", 1, PAGE_MAX)
    return CallQuery(**found)  # type: ignore[arg-type]


def _whole(text: str, name: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise OperatorError(f"{name} must be a whole number from {least} to {most}")
    return int(text)
