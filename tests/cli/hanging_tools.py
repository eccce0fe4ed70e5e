"""Tools that a process must be able to end in spite of."""

import asyncio
import contextlib
import time


async def stubborn() -> str:
    """Goes on though it is cancelled."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


async def blocks() -> str:
    """Blocks the event loop."""
    time.sleep(3600)  # noqa: ASYNC251
    return ""


def hangs() -> str:
    """Hangs in its thread."""
    time.sleep(3600)
    return ""
