"""Tools for the tests' calls."""

import asyncio

OUTCOMES: list[str] = []


async def slow() -> str:
    """Takes a while."""
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        OUTCOMES.append("cancelled")
        raise
    OUTCOMES.append("done")
    return "done"


async def quick() -> str:
    """Is done at once."""
    return "done"


async def a_while() -> str:
    """Takes a second and a half."""
    await asyncio.sleep(1.5)
    return "done"
