"""Redaction of what callers say: an agent's `redact` rules, applied to a record before it is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from offhook.gateway.store.record import CallRecord

__all__ = ["REDACTED", "redacted", "rule_mistake", "without_words"]

REDACTED = "[redacted]"
_CARD = re.compile(r"(?<![\d+])\d(?:[ .-]?\d){12,18}(?!\d)")
_IBAN = re.compile(r"\b[A-Z]{2}[ ]?\d{2}(?:[ ]?[A-Z0-9]){11,30}\b", re.IGNORECASE)
_Mask = Callable[[str], str]


def rule_mistake(rule: str) -> str:
    """What is wrong with a rule, and what to write; "" if nothing."""
    if rule in _NAMED:
        return ""
    try:
        pattern = re.compile(rule)
    except re.error as error:
        return f"is neither {', '.join(_NAMED)} nor a regular expression ({error})"
    return "fits the empty text, and so every place: make it longer" if pattern.search("") else ""


def redacted(record: CallRecord, rules: Sequence[str]) -> CallRecord:
    """A copy of the record in which every text that somebody said, or a tool was given, is masked by the rules.

    A rule sees one text at a time: a number that a caller spreads over two lines is not found.
    """
    masks = [_NAMED.get(rule) or _by_pattern(rule) for rule in rules]

    def masked(value: Any) -> Any:
        if isinstance(value, str):
            for mask in masks:
                value = mask(value)
            return value
        if isinstance(value, dict):
            return {key: masked(item) for key, item in value.items()}
        return [masked(item) for item in value] if isinstance(value, list) else value

    def copies(items: Sequence[Any], *names: str) -> list[Any]:
        return [msgspec.structs.replace(one, **{name: masked(getattr(one, name)) for name in names}) for one in items]

    return msgspec.structs.replace(
        record,
        turns=copies(record.turns, "caller_text", "reply_text", "heard_text"),
        tool_calls=copies(record.tool_calls, "arguments", "answer", "error"),
        transcript=copies(record.transcript, "text", "heard_text"),
        messages=copies(record.messages, "text"),
        actions=copies(record.actions, "detail"),
        remembered=masked(record.remembered),
    )


def without_words(record: CallRecord) -> CallRecord:
    """A copy of the record in which nobody said anything."""
    return redacted(record, [r"(?s).+"])


def _by_pattern(rule: str) -> _Mask:
    pattern = re.compile(rule)
    return lambda text: pattern.sub(REDACTED, text)


def _checked(pattern: re.Pattern[str], fits: Callable[[str], bool]) -> _Mask:
    return lambda text: pattern.sub(lambda found: REDACTED if fits(found[0]) else found[0], text)


def _luhn(text: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    digits = [int(c) for c in text if c.isdigit()]
    doubled = (digit * 2 - 9 * (digit > 4) if place % 2 else digit for place, digit in enumerate(reversed(digits)))
    return sum(doubled) % 10 == 0


def _mod_97(plain: str) -> bool:
    """ISO 13616."""
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _without_iban(found: re.Match[str]) -> str:
    """The longest IBAN that the match begins with is masked: words may follow it."""
    text = found[0]
    for end in range(len(text), 14, -1):
        plain = text[:end].replace(" ", "")
        if text[end - 1] != " " and len(plain) >= 15 and _mod_97(plain):
            return REDACTED + text[end:]
    return text


_NAMED: dict[str, _Mask] = {"card": _checked(_CARD, _luhn), "iban": lambda text: _IBAN.sub(_without_iban, text)}
