"""What every link does between its sessions: connect again until it is closed, or gives up. How, and how often, is the
provider's own (`recovery` of each).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from offhook.gateway.errors import cancelled_from_outside

__all__ = ["FAILURES_MAX", "keep_connected", "pause"]

FAILURES_MAX = 8  # exceptions of our own, in one call: then the link gives up
C = TypeVar("C")


async def keep_connected(
    connect: Callable[[C], Awaitable[C | None]],
    start: C,
    stuck: C,
    *,
    closing: asyncio.Event,
    failed: Callable[[str, BaseException], None],
    give_up: Callable[[str], None],
) -> None:
    """`connect(cause)` is one session from the decision how to its end: why it ended, or None when the link is over.

    An exception of our own or of the sink's is reported by `failed` and counts as a lost session, `stuck`. Raises
    nothing but a cancellation from outside, which sets `closing`.
    """
    cause: C | None = start
    failures = 0
    try:
        while cause is not None and not closing.is_set():
            try:
                cause = await connect(cause)
            except asyncio.CancelledError as error:
                if cancelled_from_outside():
                    raise
                failed("link", error)
            except Exception as error:
                failed("link", error)
            else:
                continue
            cause, failures = stuck, failures + 1
            if failures == FAILURES_MAX:
                give_up("exceptions of the gateway's own")
                return
    except asyncio.CancelledError:
        closing.set()
        raise


async def pause(seconds: float, closing: asyncio.Event) -> None:
    """About so long, or until the link is closed. Spread: an outage ends for all calls at once."""
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds * random.uniform(0.75, 1.25)):
                await closing.wait()
