"""Tools that a direct session calls."""

from __future__ import annotations

import asyncio

from offhook import ToolContext, tool


@tool
async def free_tables(day: str, context: ToolContext) -> str:
    """How many tables are free.

    day: the day of the week
    """
    context.say("One moment, please.")
    return f"two on {day}"


@tool
async def hangs() -> str:
    """Never ends."""
    await asyncio.Event().wait()
    return ""
