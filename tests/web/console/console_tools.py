"""The tool of the console's calls."""

import asyncio


async def find_table(day: str) -> str:
    """Look for a free table.

    day: the day of the week
    """
    await asyncio.sleep(0.6)
    return f"{day}: a table for two at seven"
