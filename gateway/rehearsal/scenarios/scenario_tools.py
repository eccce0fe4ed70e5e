"""Tools as they are out there: slow, broken, hanging, with effects."""

from __future__ import annotations

import asyncio

__all__ = ["book", "broken", "hangs", "lookups", "slowly"]

_ended = [0]  # lookups of this process that ran to their end


async def slowly() -> str:
    """Look for a free table, which takes its time."""
    await asyncio.sleep(4.0)
    _ended[0] += 1
    return "by the window"


async def lookups() -> str:
    """How many lookups ran to their end."""
    return f"{_ended[0]} lookups ran to their end"


async def broken() -> str:
    """Look for a free table."""
    raise RuntimeError("the reservation book is on fire")


async def hangs() -> str:
    """Look for a free table."""
    await asyncio.sleep(3600)
    return "never"


async def book(name: str) -> str:
    """Book the table.

    Args:
        name: The guest's name.
    """
    return f"booked for {name}"
