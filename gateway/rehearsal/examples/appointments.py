"""A dental practice's appointment book: search, book, change, cancel. Kept in SQLite.

The file is named by OFFHOOK_APPOINTMENTS_DB; without it the book is empty at each start.
"""

from __future__ import annotations

import sqlite3
from datetime import date, datetime, time, timedelta
from typing import Any, Literal

from offhook import ToolContext, ToolError, tool
from offhook.gateway.rehearsal.examples.database import Database

__all__ = ["Book", "book_appointment", "cancel_appointment", "change_appointment", "find_times", "my_appointments"]

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MORNING, AFTERNOON = (time(8, 30), time(12, 30)), (time(14), time(18))
OPEN = {0: (MORNING, AFTERNOON), 1: (MORNING, AFTERNOON), 2: (MORNING,), 3: (MORNING, AFTERNOON), 4: (MORNING,)}
HOURS = "Monday, Tuesday and Thursday 8:30 to 12:30 and 14 to 18, Wednesday and Friday 8:30 to 12:30"
DENTISTS = ("Dr Okafor", "Dr Lind")
Service = Literal["check-up", "cleaning", "filling"]
MINUTES: dict[str, int] = {"check-up": 30, "cleaning": 45, "filling": 60}
STEP = timedelta(minutes=15)
AHEAD = timedelta(days=120)
NOTICE = timedelta(hours=1)  # nothing is booked, changed or cancelled later than this before it begins
OFFERED_MAX = 4  # more cannot be kept in mind on the phone

SCHEMA = """
CREATE TABLE IF NOT EXISTS appointments (
    reference INTEGER PRIMARY KEY, starts TEXT, ends TEXT, dentist TEXT, service TEXT, name TEXT, phone TEXT,
    cancelled INTEGER DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_start ON appointments (starts)
"""
FIRST_REFERENCE = 1001


class Book:
    """The practice's rules over its database."""

    def __init__(self, database: Database | None = None) -> None:
        self.database = database or Database.named_by("OFFHOOK_APPOINTMENTS_DB", SCHEMA)

    def now(self) -> datetime:
        """The practice's local time, which is the machine's."""
        return datetime.now()

    def day(self, text: str) -> date:
        """A date as ISO text, "today", "tomorrow" or the next such weekday. Raises `ToolError`."""
        today, text = self.now().date(), text.strip().lower()
        if text in ("today", "tomorrow"):
            found = today + timedelta(days=text == "tomorrow")
        elif text.capitalize() in DAYS:
            found = today + timedelta(days=(DAYS.index(text.capitalize()) - today.weekday()) % 7 or 7)
        else:
            try:
                found = date.fromisoformat(text)
            except ValueError:
                raise ToolError("The day must be a weekday or a date such as 2026-03-31.") from None
        if found < today:
            raise ToolError(f"{found} is in the past; today is {DAYS[today.weekday()]}, {today}.")
        if found > today + AHEAD:
            raise ToolError(f"The book is open for {AHEAD.days} days ahead only.")
        return found

    def free(self, db: sqlite3.Connection, day: date, service: str, without: int = 0) -> list[tuple[datetime, str]]:
        """Every time at which this service can begin on that day, with a dentist; `without` one appointment."""
        taken = db.execute(
            "SELECT starts, ends, dentist FROM appointments WHERE starts LIKE ? AND reference != ? AND NOT cancelled",
            (f"{day}%", without),
        ).fetchall()
        length, found = timedelta(minutes=MINUTES[service]), []
        for opens, closes in OPEN.get(day.weekday(), ()):
            begin = datetime.combine(day, opens)
            while begin + length <= datetime.combine(day, closes):
                first, last = begin.isoformat(), (begin + length).isoformat()
                for dentist in DENTISTS:
                    busy = any(
                        row["dentist"] == dentist and row["starts"] < last and first < row["ends"] for row in taken
                    )
                    if not busy and begin >= self.now() + NOTICE:
                        found.append((begin, dentist))
                        break
                begin += STEP
        return found

    def at(self, db: sqlite3.Connection, day: str, at: str, service: str, without: int = 0) -> tuple[datetime, str]:
        """The dentist who is free then. Raises `ToolError` with the nearest times that are."""
        on = self.day(day)
        free = self.free(db, on, service, without)
        try:
            wanted = datetime.combine(on, time.fromisoformat(at.strip().zfill(5)))
        except ValueError:
            raise ToolError("The time must be hours and minutes, such as 14:30.") from None
        for begin, dentist in free:
            if begin == wanted:
                return begin, dentist
        nearest = sorted(free, key=lambda slot: abs(slot[0] - wanted))[:3]
        if not nearest:
            raise ToolError(f"Nothing is free on {DAYS[on.weekday()]}, {on}. Open: {HOURS}.")
        times = ", ".join(sorted(f"{begin:%H:%M}" for begin, _ in nearest))
        raise ToolError(f"{at} is not free on {DAYS[on.weekday()]}, {on}. The nearest free times are {times}.")

    def own(self, db: sqlite3.Connection, reference: int, phone: str) -> sqlite3.Row:
        """An appointment that may still be moved, if it was made from this number: others' are not there."""
        row: sqlite3.Row | None = db.execute(
            "SELECT * FROM appointments WHERE reference = ? AND phone = ? AND NOT cancelled", (reference, phone)
        ).fetchone()
        if row is None:
            raise ToolError(f"There is no appointment {reference} from this telephone number.")
        if datetime.fromisoformat(row["starts"]) < self.now() + NOTICE:
            raise ToolError("It is too late to move this appointment by telephone robot: offer to take a message.")
        return row


def to_model(row: sqlite3.Row) -> dict[str, Any]:
    """An appointment as the model reads it to the caller."""
    begin = datetime.fromisoformat(row["starts"])
    return {
        "reference": row["reference"],
        "day": f"{DAYS[begin.weekday()]}, {begin:%Y-%m-%d}",
        "time": f"{begin:%H:%M}",
        "service": row["service"],
        "with": row["dentist"],
        "name": row["name"],
    }


book = Book()


@tool
def find_times(day: str, service: Service = "check-up", part: Literal["morning", "afternoon", "any"] = "any") -> Any:
    """Look for free appointment times.

    Args:
        day: A date such as 2026-03-31, a weekday, today or tomorrow.
        service: What is to be done.
        part: The part of the day that suits the caller.
    """
    on = book.day(day)
    with book.database.changing() as db:
        free = book.free(db, on, service)
    fitting = [begin for begin, _ in free if part == "any" or (begin.hour < 13) == (part == "morning")]
    apart = max(1, len(fitting) // OFFERED_MAX)
    return {
        "day": f"{DAYS[on.weekday()]}, {on}",
        "free": [f"{begin:%H:%M}" for begin in fitting[::apart][:OFFERED_MAX]],
        "minutes": MINUTES[service],
        **({} if fitting else {"note": f"Nothing is free then. Open: {HOURS}."}),
    }


@tool(on_barge_in="finish", outside_effects=True)
def book_appointment(day: str, time: str, service: Service, name: str, context: ToolContext) -> Any:
    """Book an appointment, once the caller has agreed to day, time and service.

    Args:
        day: A date such as 2026-03-31, a weekday, today or tomorrow.
        time: Hours and minutes, such as 14:30.
        service: What is to be done.
        name: The patient's full name.
    """

    def act(db: sqlite3.Connection) -> Any:
        begin, dentist = book.at(db, day, time, service)
        end = begin + timedelta(minutes=MINUTES[service])
        last = db.execute("SELECT max(reference) FROM appointments").fetchone()[0]
        reference = max(FIRST_REFERENCE, (last or 0) + 1)
        db.execute(
            "INSERT INTO appointments VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
            (reference, begin.isoformat(), end.isoformat(), dentist, service, name, context.caller),
        )
        return to_model(book.own(db, reference, context.caller))

    return book.database.once(context.idempotency_key, act)


@tool(on_barge_in="finish", outside_effects=True)
def change_appointment(reference: int, day: str, time: str, context: ToolContext) -> Any:
    """Move an appointment of the caller's to another day or time.

    Args:
        reference: The number given when it was booked; my_appointments finds it.
        day: A date such as 2026-03-31, a weekday, today or tomorrow.
        time: Hours and minutes, such as 14:30.
    """

    def act(db: sqlite3.Connection) -> Any:
        old = book.own(db, reference, context.caller)
        begin, dentist = book.at(db, day, time, old["service"], without=reference)
        end = begin + timedelta(minutes=MINUTES[old["service"]])
        db.execute(
            "UPDATE appointments SET starts = ?, ends = ?, dentist = ? WHERE reference = ?",
            (begin.isoformat(), end.isoformat(), dentist, reference),
        )
        return to_model(book.own(db, reference, context.caller))

    return book.database.once(context.idempotency_key, act)


@tool(on_barge_in="finish", outside_effects=True)
def cancel_appointment(reference: int, context: ToolContext) -> Any:
    """Cancel an appointment of the caller's, once they have said so twice.

    Args:
        reference: The number given when it was booked; my_appointments finds it.
    """

    def act(db: sqlite3.Connection) -> Any:
        row = book.own(db, reference, context.caller)
        db.execute("UPDATE appointments SET cancelled = 1 WHERE reference = ?", (reference,))
        return {"cancelled": to_model(row)}

    return book.database.once(context.idempotency_key, act)


@tool
def my_appointments(context: ToolContext) -> Any:
    """The coming appointments that were made from the caller's telephone number."""
    with book.database.changing() as db:
        rows = db.execute(
            "SELECT * FROM appointments WHERE phone = ? AND starts > ? AND NOT cancelled ORDER BY starts",
            (context.caller, book.now().isoformat()),
        ).fetchall()
    return [to_model(row) for row in rows]
