"""Answers: whatever a tool returns becomes plain JSON within the limit."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import io
import itertools
import json
import pathlib
import sqlite3
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.gateway.observe.redact import Redactor
from offhook.gateway.tools import Secret
from offhook.gateway.tools.answer import Exact, answer, clipped, text_of
from tests.rig.computing import computing_within


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    when: datetime.date


class Row(msgspec.Struct):
    name: str


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


class Slot(pydantic.BaseModel):
    day: str
    staff: str | None = None
    pin: pydantic.SecretStr = pydantic.SecretStr("1234")
    internal: int = pydantic.Field(default=7, exclude=True)

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def label(self) -> str:
        return f"on {self.day}"


class Card(pydantic.BaseModel):
    number: str

    @pydantic.field_serializer("number")
    def masked(self, number: str) -> str:
        return "..." + number[-4:]


@attrs.define
class Seat:
    row: int


class Pair(NamedTuple):
    day: str
    hour: int


class Order:
    def __init__(self) -> None:
        self.id, self._session = 7, object()


class Shout(str):
    def __getitem__(self, key: Any) -> str:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError


class Odd(int):
    def __str__(self) -> str:
        return "odd"

    __repr__ = __str__


class Bag(dict):  # type: ignore[type-arg]
    pass


def row() -> sqlite3.Row:
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    return database.execute("select 1 as a, 'x' as b").fetchone()


UUID = uuid.UUID("123e4567-e89b-12d3-a456-426614174000")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"a": np.float64(12.5), "b": np.int64(3), "c": np.bool_(True)}, {"a": 12.5, "b": 3, "c": True}),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(5), [5]),
        (np.float32("nan"), "nan"),
        (np.datetime64("2026-03-31"), "2026-03-31"),
        ([Slot(day="Tuesday")], [{"day": "Tuesday", "staff": None, "pin": "**********", "label": "on Tuesday"}]),
        (Card(number="4111111111111111"), {"number": "...1111"}),
        (Seat(3), {"row": 3}),
        (Pair("Tuesday", 9), {"day": "Tuesday", "hour": 9}),
        (Order(), {"id": 7}),
        (types.SimpleNamespace(a=1), {"a": 1}),
        (row(), {"a": 1, "b": "x"}),
        (Level.HIGH, 3),
        (Word.YES, "yes"),
        (Shout("loud"), "loud"),
        (Odd(5), 5),
        (Bag(a=Odd(1)), {"a": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.deque([1]), [1]),
        (array.array("i", [1, 2]), [1, 2]),
        (range(3), [0, 1, 2]),
        ({"a": 1}.keys(), ["a"]),
        ((n for n in (1, 2)), [1, 2]),
        (2**53, 2**53),
        (2**53 + 1, "9007199254740993"),
        (-1001234567890123457, "-1001234567890123457"),
        (float("-inf"), "-inf"),
        (datetime.datetime(2026, 12, 1, 14, 30), "2026-12-01T14:30:00"),
        (datetime.time(14, 30), "14:30:00"),
        (datetime.timedelta(minutes=90), "1:30:00"),
        (UUID, str(UUID)),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (memoryview(b"abc"), "abc"),
        ({None: 1, True: 2, 1.5: 3, UUID: 4, (1, 2): 5}, {"null": 1, "true": 2, "1.5": 3, str(UUID): 4, "(1, 2)": 5}),
        ({1: "a", "1": "b"}, {"1": "a", "1_": "b"}),
        (Exact([1], True), [1]),
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
    found, whole = clipped(value, 1000)
    assert (found, whole) == (plain, True)
    assert exact(found)


def exact(value: Any) -> bool:
    """Whether these are the built-in types themselves, which every JSON writer takes."""
    if type(value) is dict:
        return all(type(key) is str and exact(item) for key, item in value.items())
    return all(map(exact, value)) if type(value) is list else type(value) in (str, int, float, bool, type(None))


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no")


async def never_awaited() -> None: ...
async def never_iterated() -> Any:
    yield 1


@pytest.mark.parametrize("make", [Unshowable, never_awaited, never_iterated])
def test_a_value_that_cannot_be_written_raises(make: Any) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        answer({"a": [make()]}, Redactor())


def test_values_without_a_text_are_described() -> None:
    assert text_of(Unshowable()) == "(Unshowable that cannot be shown: RuntimeError)"


def endless() -> Iterator[int]:
    yield from itertools.count()


@pytest.mark.parametrize(
    "made",
    [
        endless,
        lambda: np.zeros((3_000, 3_000)),
        lambda: dict.fromkeys(map(str, range(1_000_000))),
        lambda: "x" * 50_000_000,
        lambda: bytes(50_000_000),
        lambda: range(10**12),
        lambda: [[0] * 1_000] * 100_000,
    ],
    ids=["endless", "array", "dict", "text", "bytes", "range", "list"],
)
def test_a_huge_value_is_cut_at_once(made: Callable[[], Any]) -> None:
    value = made()
    with computing_within(0.1, "an answer"):
        found = answer(value, Redactor())
    assert "too long" in found["note"]
    assert exact(found)


def test_a_file_is_not_read() -> None:
    assert "StringIO" in clipped(io.StringIO("a\nb"), 100)[0]


def test_a_secret_stays_one() -> None:
    assert clipped([Secret("1234")], 100) == ([Secret("1234")], True)


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
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=50,
)


@given(JSON, st.integers(10, 300))
def test_a_result_that_fits_is_whole_else_bounded(value: Any, limit: int) -> None:
    plain, whole = clipped(value, limit)
    size = len(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
    if whole:
        assert plain == value
    assert msgspec.json.encode(plain)
    assert size <= 4 * limit + 100
