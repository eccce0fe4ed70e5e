"""Tools for test_tool_calls: what they did stands in DONE."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from offhook import ToolContext, ToolError, tool

DONE: list[str] = []
log = logging.getLogger(__name__)


@tool(outside_effects=True)
async def charge(cents: int) -> str:
    """Charge the caller's card."""
    DONE.append(f"charged {cents}")
    return "charged"


def book_slowly(day: str, context: ToolContext) -> dict[str, str]:
    """Book, in a library that blocks and cannot be stopped."""
    context.cancelled.wait(60.0)  # a sleep could end before the caller interrupts, on a slow machine
    DONE.append(f"booked {day}, cancelled: {context.cancelled.is_set()}")
    return {"booked": day}


async def look_slowly() -> str:
    """Look something up."""
    await asyncio.sleep(2.5)
    return "found"


async def count(context: ToolContext) -> int:
    """Count."""
    DONE.append(f"counted with {context.idempotency_key.partition(':')[2]}")
    return sum(line.startswith("counted") for line in DONE)


async def check_pin(pin: int) -> str:
    """Check a PIN."""
    DONE.append(f"pin {pin}")
    log.info("checking")
    return f"{pin} is right"


async def leak(what: str) -> Any:
    """Give away all there is."""
    key = os.environ["SHOP_API_KEY"]
    log.warning("the shop was asked with %s", what)
    if what == "raise":
        raise RuntimeError(f"401 for key {key}")
    if what == "tell":
        raise ToolError(f"The shop refused {key}.", f"GET https://shop.example/?key={key}: 401")
    return {"asked": what, "key": key, "rows": [f"{key} {'x' * 1000}"] * 10_000}
