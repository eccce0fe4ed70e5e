"""The example practice: what it offers, what it refuses, and that nothing is booked twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, cast

import pytest

from offhook.gateway.rehearsal.examples import appointments
from offhook.gateway.rehearsal.examples.appointments import (
    SCHEMA,
    Book,
    book_appointment,
    cancel_appointment,
    change_appointment,
    find_times,
    my_appointments,
)
from offhook.gateway.rehearsal.examples.database import Database
from offhook.gateway.tools import ToolContext, ToolError

NOW = datetime(2026, 11, 23, 9, 0)  # a Monday


class Monday(Book):
    """The practice on that Monday morning."""

    def now(self) -> datetime:
        return NOW


@pytest.fixture(autouse=True)
def book(monkeypatch: pytest.MonkeyPatch) -> Book:
    fresh = Monday(Database(":memory:", SCHEMA))
    monkeypatch.setattr(appointments, "book", fresh)
    return fresh


class Call:
    """What the tools use of a call's context."""

    def __init__(self, key: str = "CA1:1", caller: str = "+4912345") -> None:
        self.idempotency_key, self.caller = key, caller


def context(key: str = "CA1:1", caller: str = "+4912345") -> ToolContext:
    return cast(ToolContext, Call(key, caller))


def booked(at: str = "10:00", day: str = "Tuesday", key: str = "CA1:1", caller: str = "+4912345") -> dict[str, Any]:
    return cast(dict[str, Any], book_appointment(day, at, "check-up", "Jo Marsh", context(key, caller)))


@pytest.mark.parametrize(
    ("day", "part", "free"),
    [
        ("Tuesday", "morning", ["08:30", "09:15", "10:00", "10:45"]),
        ("2026-11-24", "afternoon", ["14:00", "14:45", "15:30", "16:15"]),
        ("today", "morning", ["10:00", "10:30", "11:00", "11:30"]),  # an hour from now at the earliest
        ("wednesday", "afternoon", []),
        ("Sunday", "any", []),
    ],
)
def test_few_times_are_offered_within_opening_hours(day: str, part: Any, free: list[str]) -> None:
    found = find_times(day, "check-up", part)
    assert found["free"] == free
    assert ("note" in found) == (not free)


@pytest.mark.parametrize("day", ["2026-11-22", "2027-11-24", "someday", "2026-13-01", ""])
def test_a_day_that_cannot_be_is_refused(day: str) -> None:
    with pytest.raises(ToolError):
        find_times(day)


def test_monday_on_a_monday_is_the_next_one() -> None:
    assert find_times("Monday")["day"] == "Monday, 2026-11-30"


def test_appointment_is_booked_found_moved_cancelled() -> None:
    made = booked()
    assert made == {
        "reference": 1001,
        "day": "Tuesday, 2026-11-24",
        "time": "10:00",
        "service": "check-up",
        "with": "Dr Okafor",
        "name": "Jo Marsh",
    }
    assert my_appointments(context()) == [made]
    moved = change_appointment(1001, "Thursday", "9:30", context("CA1:2"))
    assert (moved["day"], moved["time"], moved["reference"]) == ("Thursday, 2026-11-26", "09:30", 1001)
    assert cancel_appointment(1001, context("CA1:3")) == {"cancelled": moved}
    assert my_appointments(context()) == []
    assert booked(key="CA1:4")["reference"] == 1002, "a cancelled one's number is not given again"


def test_a_repeat_with_the_same_key_has_no_effect() -> None:
    assert booked() == booked()
    assert len(my_appointments(context())) == 1
    moved = change_appointment(1001, "Tuesday", "11:00", context("CA1:2"))
    assert change_appointment(1001, "Tuesday", "11:00", context("CA1:2")) == moved
    gone = cancel_appointment(1001, context("CA1:3"))
    assert cancel_appointment(1001, context("CA1:3")) == gone


def test_a_booked_time_is_refused_with_nearest_free() -> None:
    assert [booked(key=f"k{i}")["with"] for i in range(2)] == ["Dr Okafor", "Dr Lind"]
    with pytest.raises(ToolError, match=r"10:00 is not free .* The nearest free times are 09:15, 09:30, 10:30\."):
        booked(key="k3")
    with pytest.raises(ToolError, match="not free"):
        booked("09:45", key="k4")  # it would still go on at ten
    assert booked("10:30", key="k5")["time"] == "10:30"


def test_move_by_less_than_own_length_is_allowed() -> None:
    booked()
    booked(key="k2")
    assert change_appointment(1001, "Tuesday", "10:15", context("k3"))["time"] == "10:15"


@pytest.mark.parametrize("at", ["13:00", "17:45", "08:00", "9:05", "noon", "25:00"])
def test_time_outside_hours_or_off_quarter_is_refused(at: str) -> None:
    with pytest.raises(ToolError):
        booked(at)


def test_booking_of_another_number_cannot_be_moved() -> None:
    booked()
    for act in (
        lambda: change_appointment(1001, "Tuesday", "11:00", context("x1", "+4999")),
        lambda: cancel_appointment(1001, context("x2", "+4999")),
    ):
        with pytest.raises(ToolError, match="no appointment 1001 from this telephone number"):
            act()
    assert len(my_appointments(context())) == 1
    assert my_appointments(context(caller="+4999")) == []


def test_failed_booking_may_retry_with_the_same_key() -> None:
    with pytest.raises(ToolError):
        booked("13:00", key="k")
    assert my_appointments(context()) == []
    assert booked("10:00", key="k")["time"] == "10:00"


def test_simultaneous_callers_never_share_a_chair() -> None:
    def attempt(number: int) -> str:
        try:
            return cast(str, booked(key=f"CA{number}:1", caller=f"+{number}")["with"])
        except ToolError:
            return "refused"

    with ThreadPoolExecutor(16) as pool:
        results = sorted(pool.map(attempt, range(40)))
    assert results == ["Dr Lind", "Dr Okafor", *["refused"] * 38]


def test_book_is_kept_in_the_file_of_the_environment(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFHOOK_APPOINTMENTS_DB", str(tmp_path / "book.sqlite"))
    monkeypatch.setattr(appointments, "book", Monday())
    booked()
    monkeypatch.setattr(appointments, "book", Monday())
    assert len(my_appointments(context())) == 1
