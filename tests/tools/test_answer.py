"""Answers: whatever a tool returns becomes plain JSON within the limit."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.gateway.tools.answer import clipped


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    when: datetime.date


class Row(msgspec.Struct):
    name: str


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Point(1, datetime.date(2026, 11, 21)), {"x": 1, "when": "2026-11-21"}),
        (Row("a"), {"name": "a"}),
        (Colour.RED, "red"),
        ((1, 2), [1, 2]),
        ({1: {2}}, {"1": [2]}),
        (decimal.Decimal("1.50"), "1.50"),
        (b"\xff a", "\ufffd a"),
        (float("nan"), "nan"),
        (True, True),
        ("a\ud800", "a?"),
        (2**70, str(2**70)),
    ],
)
def test_values_become_plain_json(value: Any, plain: Any) -> None:
    assert clipped(value, 1000) == (plain, True)


def test_a_value_that_holds_itself_ends() -> None:
    endless: list[Any] = []
    endless.append(endless)
    plain, whole = clipped(endless, 1000)
    assert not whole
    assert json.dumps(plain)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=50,
)


@given(JSON, st.integers(10, 300))
def test_what_fits_is_whole_and_what_does_not_is_bounded(value: Any, limit: int) -> None:
    plain, whole = clipped(value, limit)
    size = len(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
    if whole:
        assert plain == value
    assert msgspec.json.encode(plain)
    assert size <= 4 * limit + 100
