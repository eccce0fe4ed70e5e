"""Bending of sound input, seeded: values whose parts change, vanish, double or nest; text and bytes cut and mixed."""

from __future__ import annotations

import random
from typing import Any

__all__ = ["bent", "bent_bytes", "bent_text"]

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, -0.0, 1e308, "", " ", "0", "-1", "1e400", "NaN", "\x00",
    "\ud83d\ude00", "𝕏" * 300, "x" * 5_000, [], {}, [[]], {"": ""}, [None] * 50, "start", "media", "é", "<&>\"'",
]  # fmt: skip


def bent(rng: random.Random, value: Any) -> Any:
    """A value with one of its parts changed, gone, doubled or nested."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        changed = dict(value)
        how = rng.random()
        if how < 0.6:
            changed[key] = bent(rng, value[key])
        elif how < 0.75:
            del changed[key]
        elif how < 0.9:
            changed[rng.choice(("", "event", "media", key + "x", "\x00"))] = value[key]
        else:
            changed[key] = deep(rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        how = rng.random()
        middle = [bent(rng, value[at])] if how < 0.8 else [] if how < 0.9 else [value[at], value[at]]
        return [*value[:at], *middle, *value[at + 1 :]]
    return rng.choice(ODD)


def deep(rng: random.Random) -> Any:
    value: Any = 1
    for _ in range(rng.choice((3, 50, 400))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def bent_text(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    how = rng.random()
    if how < 0.3:
        return text[:at]
    if how < 0.6:
        return text[:at] + rng.choice(("[" * 2_000, '"', "}", "\\u0000", "NaN", "1e400", "\n")) + text[at:]
    if how < 0.8:
        return text[:at] + chr(rng.randrange(32, 0xD7FF)) + text[at + 1 :]
    return text + text


def bent_bytes(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randrange(1, 5)) + data[at + rng.randrange(5) :]
