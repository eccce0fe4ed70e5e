"""A restaurant's reservation book: one tool that is slow on busy evenings, as such systems are."""

from __future__ import annotations

import asyncio

__all__ = ["find_table"]

SLOW_S = 8.0
QUICK_S = 0.3


async def find_table(day: str, people: int) -> dict[str, str | int]:
    """Look for a free table in the reservation book.

    Args:
        day: The day of the week, in English.
        people: How many people will come.
    """
    await asyncio.sleep(SLOW_S if day.lower() == "friday" else QUICK_S)
    return {"day": day, "people": people, "time": "19:30", "table": "by the window"}
