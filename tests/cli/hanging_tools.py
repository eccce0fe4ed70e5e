"""Tools that a process must be able to end in spite of."""

import asyncio
import time


async def stubborn() -> str:
    """Goes on though it is cancelled."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


async def blocks() -> str:
    """Blocks the event loop."""
    time.sleep(3600)
    return ""


def hangs() -> str:
    """Hangs in its thread."""
    time.sleep(3600)
    return ""
